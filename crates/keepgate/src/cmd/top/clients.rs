//! `keepgate top clients`: who is crawling me?
//!
//! Asks the center, which has heard all gates, or one gate's admin listener, for which no center is
//! needed. What it prints is made by [`draw`] from values alone.

mod draw;

use anyhow::Context as _;
use keepgate_limit::top::TopAnswer;

use crate::admin::{CenterArgs, only_service, segment};
use crate::exit::Exit;
use crate::style::{self, Paint};

/// Who makes the requests of a service: crawls first, then the heaviest callers
///
/// Ends with 0, or with 2 if no gate was heard.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keepgate top clients
  keepgate top clients --service orders --json
  keepgate top clients --gate http://127.0.0.1:8081    one gate's admin listener; no center needed")]
pub(crate) struct Args {
    /// The service; needed only if the center, or the gate, has several
    #[arg(long, env = "KEEPGATE_SERVICE", value_name = "NAME")]
    service: Option<String>,
    /// Ask this gate's admin listener instead of the center
    #[arg(long, value_name = "URL")]
    gate: Option<String>,
    /// The most callers of a kind to show, up to 20
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=20))]
    most: u8,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    center: CenterArgs,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let answer = super::super::runtime()?.block_on(ask(args))?;
    let gates = answer.gates;
    let nobody = gates.is_some_and(|gates| gates.heard == 0);
    if args.json {
        style::print_json(&answer)?;
    } else if let (true, Some(gates)) = (nobody, gates) {
        style::print(&draw::unheard(&answer.service, gates))?;
    } else {
        let report = answer.report.as_ref().context("expected a report in the answer")?;
        // Names come from callers, and from gates that a center merely believes.
        report.check().context("the report cannot be shown")?;
        let most = usize::from(args.most);
        let view = draw::View { service: &answer.service, gates, report, most };
        style::print(&draw::screen(&view, Paint::stdout()))?;
    }
    Ok(if nobody { Exit::Denied } else { Exit::Ok })
}

async fn ask(args: &Args) -> anyhow::Result<TopAnswer> {
    let Some(gate) = &args.gate else {
        let mut admin = args.center.connect()?;
        let service = only_service(&mut admin, args.service.as_deref()).await?;
        return admin.load(&format!("/v1/services/{}/top", segment(&service))).await;
    };
    let path = match &args.service {
        Some(service) => format!("/top?service={}", segment(service)),
        None => "/top".to_owned(),
    };
    super::ask_gate(gate, &path).await
}
