//! The stock client on the mesh: `socket.io-client` from npm, over each of its transports, called as the original's mesh
//! client and console call it.

use serde_json::{Value, json};
use symbia_tests::stock;

use crate::stage::Mesh;

#[tokio::test(flavor = "multi_thread")]
async fn the_stock_client_registers_sends_receives_watches_and_comes_back() {
    let mesh = Mesh::open().await;
    let (ada, eve) = (mesh.house.register("ada").await, mesh.house.register("eve").await);
    let invite = format!("/api/orgs/{}/members/invite", ada.org);
    mesh.house.call("POST", &invite, &ada.token, json!({ "email": eve.email, "role": "admin" })).await.ok();
    // In ada's organization she is an admin like ada: what she may not is to be somebody else's node.
    let base = &mesh.base;
    for transports in ["polling,websocket", "websocket", "polling"] {
        let variables = [
            ("BASE", base.as_str()),
            ("TOKEN", &ada.token),
            ("STRANGER", &eve.token),
            ("ORG", &ada.org),
            ("TRANSPORTS", transports),
        ];
        let seen = stock::run("mesh.cjs", &variables).await.unwrap();
        for registered in seen["registered"].as_array().unwrap() {
            assert_eq!(registered["ok"], true, "{seen}");
        }
        assert_eq!(seen["registered"][0]["node"]["id"], "stock-a");
        assert_eq!((&seen["impostors"]["ok"], &seen["impostors"]["error"]), (&json!(false), &json!("node_owned")));
        assert_eq!(seen["nobodys"]["error"], "authentication_required");
        assert_eq!(seen["stolen"], json!([]));
        assert_eq!((&seen["beat"]["ok"], &seen["unknown"]["ok"]), (&json!(true), &json!(false)));
        assert_eq!(seen["contract"]["contract"]["from"], "stock-a");
        assert_eq!(seen["sent"]["ok"], true, "{}", seen["sent"]);
        assert_eq!(seen["passed"]["trace"]["status"], "delivered", "{}", seen["passed"]);
        for refused in seen["malformed"].as_array().unwrap() {
            assert_eq!(refused["ok"], false, "{refused}");
        }
        let received = seen["received"].as_array().unwrap();
        let ids: Vec<&Value> = ["sent", "passed", "again"].iter().map(|sent| &seen[sent]["eventId"]).collect();
        assert_eq!(received.iter().collect::<Vec<_>>(), ids, "each once, and in order");
        let signs = seen["signs"].as_array().unwrap();
        for sign in [json!(["joined", "stock-a"]), json!(["contract", "stock-a"]), json!(["left", "stock-b"])] {
            // The contract of the first round stands.
            assert!(signs.contains(&sign) || sign[0] == "contract", "{sign}: {seen}");
        }
        for watched in seen["watched"].as_array().unwrap() {
            assert_eq!(watched["subscriptionId"], seen["watch"]["subscriptionId"]);
        }
        let statuses: Vec<_> = seen["watched"].as_array().unwrap().iter().map(|w| &w["trace"]["status"]).collect();
        assert!(statuses[..2].iter().all(|status| **status == "delivered"), "{statuses:?}");
        let topology = &seen["topology"];
        let connected =
            topology["nodes"].as_array().unwrap().iter().filter(|node| node["socketId"].is_string()).count();
        assert_eq!(connected, 2, "{topology}");
        assert_eq!((&seen["unwatched"][0]["ok"], &seen["unwatched"][1]["ok"]), (&json!(false), &json!(true)));
        assert_eq!(seen["unregistered"], json!([{ "ok": true }, { "ok": true }]));
        let last = if transports == "polling" { "polling" } else { "websocket" };
        assert_eq!(seen["transport"], last);
    }
}
