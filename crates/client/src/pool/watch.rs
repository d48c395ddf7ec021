//! What a group does by itself: it looks names up again, and asks addresses whether they are healthy.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http::{Request, Uri};
use http_body::Body as _;
use keepgate_observe::chain;

use super::balancer::GroupEvent;
use super::error::PoolError;
use super::group::{Group, Inner};
use super::incoming::PooledBody;
use super::members::{MAX_NAME_ADDRESSES, Member};
use super::outgoing::RequestBody;
use super::terms::Terms;
use crate::dial::Target;

/// How much of the answer to a check is read, so that its connection can be kept.
const CHECK_BODY: usize = 64 * 1024;

impl<B: RequestBody> Group<B> {
    /// Looks all names up once. A name that cannot be looked up keeps the addresses that it has; one
    /// that has none yet is resolved for each connection.
    pub async fn refresh(&self) {
        join_all(self.inner.members.names().iter().map(|(at, target)| async move {
            self.inner.look_up(*at, target, &mut false).await;
        }))
        .await;
    }
}

impl<B: RequestBody + Default> Group<B> {
    /// Follows names, and checks addresses. Runs until it is dropped. One such future is enough for
    /// all clones; it opens connections on the runtime that it runs on.
    pub async fn watch(self) {
        let inner = &self.inner;
        let names = inner.members.names();
        let following = join_all(names.iter().map(|(at, target)| inner.follow(*at, target)));
        let checking = async {
            if let Some(check) = &inner.check {
                inner.keep_checking(check).await;
            }
        };
        tokio::join!(following, checking);
    }
}

impl<B: RequestBody> Inner<B> {
    /// Each name by itself: one that is slow to look up holds up no other.
    async fn follow(&self, at: usize, target: &Target) {
        let mut failing = false;
        loop {
            tokio::time::sleep(self.pool.dns_refresh).await;
            self.look_up(at, target, &mut failing).await;
        }
    }

    async fn look_up(&self, at: usize, target: &Target, failing: &mut bool) {
        let Some((host, port)) = target.name() else { return };
        let (balancer, name) = (&self.balancer, || Arc::from(host));
        // More than are used: so that those in use are among them.
        let most = 4 * MAX_NAME_ADDRESSES;
        let found = self.dialer.resolve_all(host, port, most).await;
        balancer.counters.lookups.add(1);
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                balancer.counters.lookups_failed.add(1);
                if !std::mem::replace(failing, true) {
                    let error = chain(&error);
                    balancer.tell(&GroupEvent::NameFailed { host: name(), error });
                }
                return;
            }
        };
        *failing = false;
        // An address of a family that this host cannot reach would only be ejected.
        let mut usable = found.clone();
        usable.retain(|address| self.dialer.has_route(*address, &target.sources));
        let found = if usable.is_empty() { found } else { usable };
        let count = found.len();
        let (news, left_out) = self.members.moved(at, found);
        if news {
            balancer.counters.moves.add(1);
            let addresses = count.saturating_sub(left_out);
            balancer.tell(&GroupEvent::Moved { host: name(), addresses, left_out });
        }
    }
}

impl<B: RequestBody + Default> Inner<B> {
    async fn keep_checking(&self, path: &str) {
        let within = self.pool.check_timeout;
        loop {
            let set = self.members.now();
            join_all(set.members.iter().map(|member| async {
                if let Some(healthy) = is_healthy(member, path, within).await {
                    self.balancer.checked(member.key, healthy);
                }
            }))
            .await;
            drop(set);
            tokio::time::sleep(self.pool.check_every).await;
        }
    }
}

/// Whether the address answers as a healthy one does; none: it was not asked, because no connection
/// was free.
async fn is_healthy<B: RequestBody + Default>(
    member: &Member<B>,
    path: &str,
    within: Duration,
) -> Option<bool> {
    let mut request = Request::new(B::default());
    *request.uri_mut() = path.parse::<Uri>().ok()?;
    let terms = Terms { answer_timeout: Some(within), ..Terms::default() };
    let asked = async {
        let response = member.upstream.send_on(request, &terms).await?;
        let healthy = (200..400).contains(&response.status().as_u16());
        read(response.into_body()).await;
        Ok::<_, PoolError>(healthy)
    };
    match tokio::time::timeout(within, asked).await {
        Ok(Ok(healthy)) => Some(healthy),
        Ok(Err(error)) => (!error.is_no_capacity()).then_some(false),
        Err(_) => (member.upstream.stats().waiting == 0).then_some(false),
    }
}

/// Reads the body to its end, so that its connection is kept, unless that is long.
async fn read<B: RequestBody>(mut body: PooledBody<B>) {
    let mut bytes = 0;
    while bytes < CHECK_BODY {
        let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await;
        let Some(Ok(frame)) = frame else { return };
        bytes += frame.data_ref().map_or(0, bytes::Bytes::len);
    }
}
