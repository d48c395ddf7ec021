//! What a follower of one center hears of what another lands.

use std::sync::atomic::Ordering;
use std::time::Instant as At;

use keepgate_policy::proto::follow_response::Response as Told;
use prost::Message as _;

use super::*;
use crate::access::tests::caller;
use crate::desk::others::tests::{Place, entity, named, token};
use crate::neighbors::Neighbors;

/// The bound of every wait.
const PATIENCE: Duration = Duration::from_secs(60);

fn feed_of(desk: &Arc<Desk>) -> (Feed, mpsc::Receiver<Result<Frame, Status>>) {
    let (_, closing) = watch::channel(false);
    let followers: Arc<Followers> = Arc::default();
    let neighbors =
        Arc::new(Neighbors::new(Arc::clone(desk), Arc::clone(&followers), String::new()));
    let requests = Arc::new(Requests::new(Arc::clone(desk), Arc::default(), None));
    let service =
        SyncService::new(Arc::clone(desk), followers, Arc::default(), neighbors, requests, closing);
    let joined = service.followers.join(Follower {
        name: "gate".to_owned(),
        peer: None,
        token: "t1".to_owned(),
        scope: Scope::All,
        sent: Revision(0),
        applied: Revision(0),
        applied_unix_ms: None,
        connected_unix_ms: 0,
        format: 3,
        release: String::new(),
        history: None,
        age_ms: None,
        pulse: 0,
        pulse_unix_ms: None,
        held_back: None,
        report: None,
    });
    let (to, queue) = mpsc::channel(QUEUE);
    let feed = Feed {
        service,
        caller: caller("t1", "s"),
        scope: Scope::All,
        to,
        joined: Arc::new(joined),
        name: String::new(),
        sent: Revision(0),
        waiting: None,
        format: 3,
        pulse: watch::Sender::default(),
        echoed: 0,
        beaten: None,
    };
    (feed, queue)
}

/// A heartbeat that echoes a pulse comes after all that any center acknowledged before the pulse.
#[tokio::test(flavor = "multi_thread")]
async fn an_echo_comes_after_what_other_centers_acknowledged() {
    let place = Place::new();
    let centers = [place.center(), place.center()];
    // It finds revisions by looking alone.
    centers[1].seen.deaf.store(true, Ordering::SeqCst);
    centers[0].token(token(1, None)).await;
    centers[0].put(vec![named("s", 0)]).await;
    // The token is known to the one that is followed before it is looked at.
    let begun = At::now();
    while centers[1].desk.confirmed().is_none_or(|confirmed| confirmed.until.unwrap() < begun) {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (mut feed, mut queue) = feed_of(&centers[1].desk);
    let pulse = feed.pulse.clone();
    let feeding = tokio::spawn(async move {
        let _ = feed.feed(None).await;
    });
    let mut held = 0;
    for nonce in 1..=6 {
        // In the midst of a look, which does not see it any more.
        let seen = &centers[1].seen;
        seen.late_ms.store(200, Ordering::SeqCst);
        let begun = At::now();
        while !seen.reading.load(Ordering::SeqCst) {
            assert!(begun.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let landed = centers[0].put(vec![entity("s", nonce, &[])]).await.revision;
        pulse.send_modify(|pulses| assert!(pulses.came(nonce, At::now())));
        seen.late_ms.store(0, Ordering::SeqCst);
        loop {
            let next = tokio::time::timeout(PATIENCE, queue.recv()).await.unwrap();
            let Frame(bytes) = next.unwrap().unwrap();
            match proto::FollowResponse::decode(bytes).unwrap().response.unwrap() {
                Told::SnapshotBegin(begin) => held = begin.revision,
                Told::Delta(delta) => {
                    assert_eq!(delta.previous, held, "each follows the one before");
                    held = delta.revision;
                }
                Told::Heartbeat(beat) => {
                    // Before its snapshot it hears of a head that it does not hold.
                    assert!((held == 0 || beat.head <= held) && beat.echo <= nonce);
                    if beat.echo == nonce {
                        assert!(beat.head >= landed.0, "{} is older than {landed}", beat.head);
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    feeding.abort();
}
