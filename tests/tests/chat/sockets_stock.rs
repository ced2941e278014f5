//! The stock client: `socket.io-client` from npm, over each of its transports.

use serde_json::{Value, json};
use symbia_events::Service;
use symbia_tests::stock;

use super::stage::House;

#[tokio::test(flavor = "multi_thread")]
async fn the_stock_client_connects_speaks_and_comes_back() {
    let house = House::open().await;
    let ada = house.register("ada").await;
    let grace = house.colleague(&ada, "grace").await;
    for transports in ["polling,websocket", "websocket", "polling"] {
        let id = house.talk(&ada, &[&grace.id]).await;
        let base = house.base(Service::Messaging);
        let variables = [
            ("BASE", base),
            ("CONVERSATION", &id),
            ("TRANSPORTS", transports),
            ("ADA", &ada.token),
            ("GRACE", &grace.token),
        ];
        let seen = stock::run("client.cjs", &variables).await.unwrap();
        assert_eq!(seen["refused"], "Authentication required");
        for call in ["joined", "sent", "edited", "deleted", "control"] {
            assert_eq!(seen[call]["success"], true, "{call}: {seen}");
        }
        assert_eq!(
            seen["early"],
            json!(vec![true; 20]),
            "what is asked in the same tick as the connection stands is answered"
        );
        assert_eq!((&seen["edited"]["message"]["content"], &seen["paused"]), (&json!("hello"), &json!(true)));
        assert_eq!(seen["outsider"]["error"], "Not a participant");
        let heard: Vec<&Value> =
            seen["heard"].as_array().unwrap().iter().filter(|heard| heard[0] == "message:new").map(|h| &h[1]).collect();
        assert_eq!(heard, ["helo", "one", "two", "three", "last"], "once, and in order: {seen}");
        for answer in seen["present"].as_array().unwrap() {
            assert_eq!(answer["success"], true, "{seen}");
        }
        let named = |name: &str| seen["heard"].as_array().unwrap().iter().any(|heard| heard[0] == name);
        for name in [
            "message:updated",
            "message:deleted",
            "stream.pause",
            "typing:started",
            "typing:stopped",
            "presence:changed",
            "participant:online",
        ] {
            assert!(named(name), "{transports}: {name} was not heard: {seen}");
        }
        let last = if transports == "polling" { "polling" } else { "websocket" };
        assert_eq!(seen["transport"], last);
    }
}
