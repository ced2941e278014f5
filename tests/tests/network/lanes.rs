//! Many events at once, through two routers and two deliverers: each arrives once, and in its order (network.md §16, check 18).

use std::collections::BTreeMap;

use futures::{
    StreamExt,
    future::{join, join_all},
    stream,
};
use serde_json::{Value, json};
use symbia_tests::socketio::{Options, SocketClient};

use crate::{
    identity::{Person, eventually},
    stage::{Mesh, event},
};

const AGENT: &str = "assistant:fast";
/// Runs of each sender at each router, and events of each run.
const RUNS: usize = 3;
const EVENTS: usize = 168;
/// Events of a run that wait for their answers at a time.
const AHEAD: usize = 32;

/// Sends the events of a run, many before the first is answered; to two targets in turn.
async fn run(base: &str, who: &Person, source: &str, run: &str) {
    let auth = json!({ "token": who.token, "orgId": who.org });
    let options = Options { auth, ..Options::default() };
    let socket = SocketClient::connect(base, options).await.unwrap();
    let sent = (0..EVENTS).map(|n| {
        let mut event = event(source, Some(["b", "c"][n % 2]));
        event["runId"] = json!(run);
        event["payload"]["data"] = json!({ "n": n });
        socket.call("event:send", &[event])
    });
    let answers: Vec<Value> = stream::iter(sent).buffered(AHEAD).map(Result::unwrap).collect().await;
    let refused: Vec<&Value> = answers.iter().filter(|answer| answer["ok"] != true).collect();
    assert!(refused.is_empty(), "{run}: {} were refused, such as {}", refused.len(), refused[0]);
}

/// What a node is given, by source and run, in the order in which it comes.
async fn given(socket: &mut SocketClient, events: usize) -> BTreeMap<(String, String), Vec<u64>> {
    let mut given = BTreeMap::<_, Vec<u64>>::new();
    for _ in 0..events {
        let told = socket.event("event:received").await.unwrap().data;
        let text = |name: &str| told["wrapper"][name].as_str().unwrap().to_owned();
        let n = told["payload"]["data"]["n"].as_u64().unwrap();
        given.entry((text("source"), text("runId"))).or_default().push(n);
    }
    given
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_events_through_two_routers_arrive_once_and_in_their_order() {
    let mesh = Mesh::open().await;
    mesh.deliver().await;
    let ada = mesh.house.register("ada").await;
    let agent = mesh.enrol(&ada, AGENT, &["cap:network.events.write"]).await;
    let mut node = mesh.node(AGENT);
    node["type"] = json!("assistant");
    mesh.made("/api/registry/nodes", &agent, node).await;
    mesh.register(&ada, &["a"]).await;
    let routers = [mesh.base.clone(), mesh.serve().await];
    let [mut b, mut c] = [mesh.speaker(&routers[0], &ada, "b").await, mesh.speaker(&routers[1], &ada, "c").await];
    for source in ["a", AGENT] {
        for target in ["b", "c"] {
            mesh.contract(&ada, source, target).await;
        }
    }

    let senders = [(&ada, "a"), (&agent, AGENT)];
    let runs = routers.iter().enumerate().flat_map(|(router, base)| {
        senders.into_iter().flat_map(move |(who, source)| {
            (0..RUNS).map(move |n| async move { run(base, who, source, &format!("run-{router}-{n}")).await })
        })
    });
    let each = routers.len() * senders.len() * RUNS * EVENTS / 2;
    let (_, (to_b, to_c)) = join(join_all(runs), join(given(&mut b, each), given(&mut c, each))).await;
    for (target, given, first) in [("b", to_b, 0), ("c", to_c, 1)] {
        assert_eq!(given.len(), routers.len() * senders.len() * RUNS, "{target}: runs are missing");
        let expected: Vec<u64> = (0..EVENTS as u64).skip(first).step_by(2).collect();
        for (lane, given) in given {
            assert_eq!(given, expected, "{target}: {lane:?}");
        }
    }

    // None is under way any more, and none comes a second time.
    let all = json!(each * 2);
    eventually("all are known to be delivered", async || {
        let stats = mesh.get("/api/events/stats", &ada).await;
        (stats["deliveredCount"] == all && stats["pendingCount"] == 0).then_some(())
    })
    .await;
    mesh.made("/api/registry/nodes", &ada, crate::stage::silent("d")).await;
    for socket in [&mut b, &mut c] {
        let told = socket.until(|told| told.name == "network:node:joined" && told.data["nodeId"] == "d").await.unwrap();
        assert!(told.iter().all(|told| told.name != "event:received"), "an event came twice");
    }
}
