//! The one place where the world changes: edits in, revisions out.
//!
//! A dedicated thread takes edits from a bounded queue, one at a time. Each is planned against
//! the state inside its write transaction, checked, made into one revision, committed, and then
//! published: world, revision, scopes, services and tokens in one [`Head`], swapped atomically.
//! Readers take the head once and see one state. Followers are woken by a watch channel; what
//! they need of the last revisions is in [`Recent`], encoded once.
//!
//! INVARIANT: the head is never ahead of the store, and an edit is acknowledged only after its
//! commit is durable and its head is published.

mod check;
mod land;
mod limits;
mod recent;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use keepgate_policy::service::ServiceSettings;
use keepgate_policy::{Change, Digest, Item, ItemBody, ItemKey, Kind, Revision, Snapshot, World};
use tokio::sync::{mpsc, oneshot, watch};

pub use check::Problem;
pub use land::{Change as Landing, ChangeOp};
pub(crate) use land::{an_admin_remains, unix_ms};
pub(crate) use recent::DELTA_BYTES;
pub use recent::{Landed, Recent, Scope, Since};

use crate::store::{Reading, Retention, ScopeRow, Store, StoreError, TokenRow};

/// Edits that may wait; one more is refused as [`Refusal::Busy`].
const QUEUE: usize = 256;

/// Everything a reader needs, at one revision.
#[derive(Clone, Debug)]
pub struct Head {
    /// The revision.
    pub revision: Revision,
    /// What decisions are made with.
    pub world: World,
    /// Digest and size of each scope, by service name; the directory's is empty.
    pub scopes: Arc<BTreeMap<String, ScopeRow>>,
    /// The settings of each service, by name.
    pub services: Arc<BTreeMap<String, Arc<ServiceSettings>>>,
    /// All tokens, revoked ones included, by id.
    pub tokens: Arc<HashMap<String, TokenRow>>,
}

impl Head {
    /// The digest of what a follower of this scope holds.
    pub fn digest(&self, scope: &Scope) -> Digest {
        digest_of(&self.scopes, scope)
    }
}

fn digest_of(scopes: &BTreeMap<String, ScopeRow>, scope: &Scope) -> Digest {
    scopes
        .values()
        .filter(|row| scope.covers(&row.service))
        .fold(Digest::default(), |sum, row| sum.plus(row.digest))
}

/// What an edit wants to do; a later change of the same key wins.
#[derive(Debug, Default)]
pub struct Plan {
    /// Items put and deleted.
    pub changes: Vec<Change>,
    /// Tokens created or changed.
    pub tokens: Vec<TokenRow>,
}

/// Works out a [`Plan`] inside the write transaction.
pub type Planner = Box<dyn FnOnce(&dyn Reading, &Head) -> Result<Plan, Refusal> + Send>;

/// A wish to change the world.
pub struct Edit {
    /// The id of the token that asks, or `center`.
    pub actor: String,
    /// What is asked for, for the audit log: `apply`, `role.assign`, ...
    pub action: &'static str,
    /// Everything is checked and reported, nothing kept.
    pub dry_run: bool,
    /// What to do.
    pub plan: Planner,
}

/// What came of an edit.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The revision of the state that it left (or, for a dry run, found).
    pub revision: Revision,
    /// What changed, in key order; empty: nothing, and no revision was made.
    pub changes: Vec<Landing>,
}

/// An edit that did not land; nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The state it would leave is not valid.
    #[error("the change is not valid")]
    Invalid(Vec<Problem>),
    /// It names something that is not there.
    #[error("there is no {kind} `{id}`{place}")]
    Missing {
        /// `policy`, `service`, `token`, ...
        kind: &'static str,
        /// Its id.
        id: String,
        /// ` in service ..` or nothing.
        place: String,
    },
    /// The item is not at the revision that the caller saw.
    #[error("`{id}` is at revision {found}, not at {wanted}: someone changed it meanwhile")]
    Stale {
        /// The item's id.
        id: String,
        /// The caller's `If-Match`.
        wanted: String,
        /// What is there; 0: nothing.
        found: Revision,
    },
    /// It would leave no way in.
    #[error(
        "`{0}` is the last admin token; create another one first (`keepgate token create --role \
         admin`)"
    )]
    LastAdmin(String),
    /// Too many edits wait already.
    #[error("too many changes are waiting; try again")]
    Busy,
    /// The center is shutting down.
    #[error("the center is shutting down")]
    Closed,
    /// The engine does not take what passed all checks; a defect.
    #[error("the decision engine refused the change")]
    World(#[from] keepgate_policy::world::WorldError),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
}

impl Refusal {
    /// There is no such item.
    pub fn missing(key: &ItemKey) -> Refusal {
        let place = match (key.kind, key.service.as_str()) {
            (Kind::Service, _) => String::new(),
            (_, "") => " in the directory".to_owned(),
            (_, service) => format!(" in service `{service}`"),
        };
        let id = if key.id.is_empty() { key.service.clone() } else { key.id.clone() };
        Refusal::Missing { kind: key.kind.as_str(), id, place }
    }

    /// There is no such service.
    pub fn no_service(name: &str) -> Refusal {
        Refusal::missing(&ItemKey::service(name))
    }
}

/// The desk did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store cannot be read.
    #[error("cannot read the store")]
    Store(#[from] StoreError),
    /// A stored item is not what this release understands.
    #[error("the store holds an item that does not decode")]
    Item(#[from] keepgate_policy::item::DecodeError),
    /// The engine does not take the stored items.
    #[error("the store holds a state that the engine does not take")]
    World(#[from] keepgate_policy::world::WorldError),
    /// The writer thread did not start.
    #[error("cannot start the writer thread")]
    Thread(#[source] std::io::Error),
}

enum Job {
    Edit(Edit, oneshot::Sender<Result<Outcome, Refusal>>),
    Touch(Vec<(String, u64)>),
}

/// See the module.
pub struct Desk {
    shared: Arc<Shared>,
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the writer thread and the readers share.
pub(crate) struct Shared {
    store: Arc<dyn Store>,
    keep: Retention,
    head: ArcSwap<Head>,
    recent: Recent,
    landed: watch::Sender<Revision>,
}

impl Desk {
    /// Reads the whole store, checks its digests, builds the world and starts the writer thread.
    /// Blocks.
    pub fn open(store: Arc<dyn Store>, keep: Retention) -> Result<Desk, OpenError> {
        let head = load(store.as_ref())?;
        let revision = head.revision;
        let shared = Arc::new(Shared {
            store,
            keep,
            head: ArcSwap::from_pointee(head),
            recent: Recent::new(revision),
            landed: watch::Sender::new(revision),
        });
        let (jobs, queue) = mpsc::channel(QUEUE);
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("center-writer".to_owned())
                .spawn(move || work(&shared, queue))
                .map_err(OpenError::Thread)?
        };
        Ok(Desk { shared, jobs: Mutex::new(Some(jobs)), thread: Mutex::new(Some(thread)) })
    }

    /// The current state. Cheap; take it once per request.
    pub fn head(&self) -> Arc<Head> {
        self.shared.head.load_full()
    }

    /// Wakes at each new revision.
    pub fn watch(&self) -> watch::Receiver<Revision> {
        self.shared.landed.subscribe()
    }

    /// The last revisions, encoded for followers.
    pub fn recent(&self) -> &Recent {
        &self.shared.recent
    }

    /// Lands an edit, or says why not.
    pub async fn edit(&self, edit: Edit) -> Result<Outcome, Refusal> {
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs().ok_or(Refusal::Closed)?;
        jobs.try_send(Job::Edit(edit, reply)).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => Refusal::Busy,
            mpsc::error::TrySendError::Closed(_) => Refusal::Closed,
        })?;
        answer.await.unwrap_or(Err(Refusal::Closed))
    }

    /// Notes when tokens were used last; dropped when the queue is full.
    pub fn touch(&self, used: Vec<(String, u64)>) {
        if let Some(jobs) = self.jobs() {
            let _ = jobs.try_send(Job::Touch(used));
        }
    }

    /// Reads from the store off the runtime, all at one revision.
    pub async fn read<T, F>(&self, f: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Reading) -> Result<T, Refusal> + Send + 'static,
    {
        let store = Arc::clone(&self.shared.store);
        let work = tokio::task::spawn_blocking(move || f(store.read()?.as_ref()));
        work.await.unwrap_or(Err(Refusal::Closed))
    }

    /// Finishes the edits that wait, stops the writer and settles the store. Blocks.
    pub fn close(&self) -> Result<(), StoreError> {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            if thread.join().is_err() {
                tracing::error!("the writer thread panicked");
            }
            self.shared.store.settle()?;
        }
        Ok(())
    }

    fn jobs(&self) -> Option<mpsc::Sender<Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        // The thread ends when the queue does; a clean exit has closed already.
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// The writer thread: until the queue is closed and empty.
fn work(shared: &Shared, mut queue: mpsc::Receiver<Job>) {
    while let Some(job) = queue.blocking_recv() {
        match job {
            Job::Edit(edit, reply) => {
                let action = edit.action;
                let outcome = land::land(shared, edit);
                if let Err(e @ (Refusal::Store(_) | Refusal::World(_))) = &outcome {
                    tracing::error!(action, error = %crate::chain(e), "a change did not land");
                }
                // The caller may have gone; the revision stands all the same.
                let _ = reply.send(outcome);
            }
            Job::Touch(used) => {
                let noted = shared.store.write(&mut |tx| {
                    tx.touch(&used)?;
                    Ok(crate::store::Verdict::Commit)
                });
                if let Err(e) = noted {
                    tracing::warn!(error = %crate::chain(&e), "token use was not noted");
                }
            }
        }
    }
}

/// The head of a store, all at one revision.
fn load(store: &dyn Store) -> Result<Head, OpenError> {
    let reading = store.read()?;
    let revision = reading.head()?;
    let mut items: Vec<Item> = Vec::new();
    let mut services = BTreeMap::new();
    let mut scopes = BTreeMap::new();
    for scope in reading.scopes()? {
        let mut sum = Digest::default();
        let mut broken = None;
        reading.each(&scope.service, &mut |row| {
            sum = sum.plus(Digest::of_encoded(&row.key, &row.body));
            match Item::decode(row.key, &row.body) {
                Ok(item) => {
                    if let ItemBody::Service(settings) = &item.body {
                        services.insert(item.key.service.clone(), Arc::new((**settings).clone()));
                    }
                    items.push(item);
                }
                Err(e) => broken = Some(e),
            }
            Ok(())
        })?;
        if let Some(e) = broken {
            return Err(e.into());
        }
        if sum != scope.digest {
            let what =
                format!("the items of scope `{}` do not sum up to its digest", scope.service);
            return Err(StoreError::Corrupt { what }.into());
        }
        scopes.insert(scope.service.clone(), scope);
    }
    let digest = digest_of(&scopes, &Scope::All);
    let world = World::from_snapshot(&Snapshot { revision, digest, items })?;
    let tokens = reading.tokens()?.into_iter().map(|row| (row.id.clone(), row)).collect();
    Ok(Head {
        revision,
        world,
        scopes: Arc::new(scopes),
        services: Arc::new(services),
        tokens: Arc::new(tokens),
    })
}
