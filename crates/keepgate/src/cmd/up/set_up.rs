//! What the first start of `keepgate up` makes at its center, and later starts find.

use std::path::Path;

use keepgate_api::{Services, Token, Tokens};
use serde::de::IgnoredAny;

use super::first_steps::FirstSteps;
use crate::admin::{Admin, Refusal, read_token, segment};
use crate::cmd::apply::{Bundle, How, settings_of, show_left, show_problems, show_warnings};
use crate::cmd::token::{self, TokenRole};
use crate::demo;
use crate::exit::usage;
use crate::secret;
use crate::style::Paint;

/// The service of a center that has none yet and was given no policies.
const SERVICE_DEFAULT: &str = "default";

/// What the first start makes and later starts find.
pub(super) struct SetUp {
    pub(super) service: String,
    /// What to try first; none: the demo has its own.
    pub(super) first: Option<FirstSteps>,
    pub(super) gate_token: String,
    pub(super) keys: Option<demo::Keys>,
}

/// What the command line asks for.
pub(super) struct Wanted<'a> {
    pub(super) service: Option<&'a str>,
    /// Where the files are from.
    pub(super) policy: Option<&'a Path>,
    pub(super) demo: bool,
}

impl SetUp {
    /// Makes what is missing.
    pub(super) async fn ensure(
        admin: &mut Admin,
        wanted: &Wanted<'_>,
        bundle: Option<&Bundle>,
        data: &Path,
    ) -> anyhow::Result<SetUp> {
        let service = match (bundle, wanted.service) {
            (Some(bundle), _) => {
                apply_at_start(admin, bundle, wanted.policy).await?;
                bundle.service.clone()
            }
            (None, Some(name)) => existing_or_new(admin, name).await?,
            (None, None) => {
                let services = admin.load_all::<Services>("/v1/services").await?;
                let names: Vec<&str> = services.iter().map(|s| s.name.as_str()).collect();
                match names.as_slice() {
                    [] => existing_or_new(admin, SERVICE_DEFAULT).await?,
                    [only] => (*only).to_owned(),
                    several => {
                        return Err(usage(format!(
                            "the center has several services; say which one to protect with --service: {}",
                            several.join(", ")
                        )));
                    }
                }
            }
        };
        let first = match wanted.demo {
            true => None,
            false => Some(FirstSteps::find(admin, &service).await),
        };
        let gate_token = gate_token(admin, &service, data).await?;
        let keys =
            if wanted.demo { Some(demo::Keys::ensure(admin, &service, data).await?) } else { None };
        Ok(SetUp { service, first, gate_token, keys })
    }
}

/// Applies the directory as far as nobody has changed what is stored since. What somebody took away or
/// changed stays so over every restart, and is named; the start goes on with what is stored.
async fn apply_at_start(
    admin: &mut Admin,
    bundle: &Bundle,
    dir: Option<&Path>,
) -> anyhow::Result<()> {
    let dir = dir.unwrap_or(Path::new("demo"));
    let starts = |why: &str| {
        eprintln!("{} starting on what is stored: {why}", Paint::stderr().warn("warning:"));
    };
    match bundle.apply(admin, How::default()).await {
        Ok(answer) => {
            show_warnings(dir, &answer);
            show_left(dir, &answer);
            if !answer.conflicts.is_empty() {
                starts("it differs from the files where a command has changed it");
            }
            Ok(())
        }
        // Only of a service that is stored: of another nothing can be emptied.
        Err(error) => match error.downcast_ref::<Refusal>() {
            Some(refusal) if refusal.status == 409 && show_problems(dir, refusal) => {
                starts("nothing of the files was applied; `keepgate apply` takes --prune");
                Ok(())
            }
            _ => Err(error),
        },
    }
}

/// The service; made, with nothing in it, if it is not there.
async fn existing_or_new(admin: &mut Admin, name: &str) -> anyhow::Result<String> {
    match admin.load::<IgnoredAny>(&format!("/v1/services/{}", segment(name))).await {
        Ok(IgnoredAny) => {}
        Err(error) if error.downcast_ref::<Refusal>().is_some_and(|r| r.status == 404) => {
            let files = [("service.toml".to_owned(), settings_of(name))].into();
            Bundle::from_files(files, "--service")?.apply(admin, How::default()).await?;
        }
        Err(error) => return Err(error),
    }
    Ok(name.to_owned())
}

/// The gate's token from the data directory while the center still knows it, else a new one.
async fn gate_token(admin: &mut Admin, service: &str, data: &Path) -> anyhow::Result<String> {
    let path = data.join(format!("gate-{service}.token"));
    if let Ok(token) = read_token(&path) {
        let id = token::id_of(&token);
        let tokens = admin.load_all::<Tokens>("/v1/tokens").await?;
        let now = crate::cmd::now_unix_s()?;
        let is_good = |known: &Token| known.id == id && !token::has_ended(known, now);
        if tokens.iter().any(is_good) {
            return Ok(token);
        }
    }
    let made = token::create(admin, TokenRole::Gate, Some(service), "keepgate up").await?;
    let token = made.token;
    secret::write(&path, &format!("{token}\n"))?;
    Ok(token)
}

/// Revokes this token.
pub(super) async fn revoke(admin: &mut Admin, token: &str) -> anyhow::Result<()> {
    admin.delete(&format!("/v1/tokens/{}", segment(token::id_of(token)))).await?;
    Ok(())
}
