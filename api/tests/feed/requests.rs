//! Parameters, the first message, and server-sent events.

use std::time::Duration;

use serde_json::{Value, json};
use symbia_api::feed::FeedConfig;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::stage::{ParcelEvent, ParcelSent, Server, Stage, note, numbers, sent, until, within};

const A: (&str, &str) = ("authorization", "Bearer a");

#[tokio::test]
async fn parameters_that_are_not_valid_are_refused_with_what_to_do() {
    let stage = Stage::new().await;
    let server = stage.serve(FeedConfig::default()).await;
    stage.append("org-a", "1", &[sent(1), sent(2)]).await;
    for (query, path, rule) in [
        ("from=yesterday", "from", "format"),
        ("from=identity:x", "from", "format"),
        ("from=identity:1,identity:1", "from", "format"),
        ("from=identity:2", "from", "range"),
        ("from=identity:2.1", "from", "range"),
        ("from=identity:18446744073709551615", "from", "range"),
        ("from=identity:1&service=identity,messaging", "from", "required"),
        ("service=nobody", "service", "enum"),
        ("service=", "service", "format"),
        ("aggregate=user/*", "aggregate", "format"),
        ("type=a*b", "type", "format"),
        ("live=maybe", "live", "format"),
        ("form=latest", "form", "unknown"),
    ] {
        let (status, body) = server.refused(query, &[A]).await;
        assert_eq!((status, &body["code"]), (400, &json!("VALIDATION_FAILED")), "{query}");
        assert_eq!((&body["details"][0]["path"], &body["details"][0]["rule"]), (&json!(path), &json!(rule)), "{body}");
    }
    let (_, body) = server.refused("from=identity:2", &[A]).await;
    assert_eq!(body["error"], "from names identity:2, but that stream ends at identity:1");
    assert!(body["hint"].as_str().unwrap().contains("from=earliest"), "{body}");
    let (head, body) = plain(&server, "/events/ws", "").await;
    assert!(head.starts_with("HTTP/1.1 426 ") && body.contains("UPGRADE_REQUIRED"), "{head} {body}");
}

#[tokio::test]
async fn parameters_may_come_in_the_first_message() {
    let stage = Stage::new().await;
    let server = stage.serve(FeedConfig::default()).await;
    stage.append("org-a", "1", &[sent(1), sent(2)]).await;
    let (mut follower, _) = server.connect("from=message", &[A]).await.unwrap();
    follower.say(r#"{"from":"identity:1.1","type":"symbia.identity.*"}"#).await;
    assert_eq!(follower.item().await["cursor"], "identity:1.1");
    assert_eq!(numbers(&follower.events(1).await), [2]);
    for (message, expected) in [
        ("{", "must be a JSON object"),
        (r#"{"from":"message"}"#, "from must be latest"),
        (r#"{"tenant":"org-b"}"#, "ORG_ACCESS_DENIED"),
    ] {
        let (mut follower, _) = server.connect("from=message", &[A]).await.unwrap();
        follower.say(message).await;
        let (items, code, reason) = follower.rest().await;
        assert_eq!((items.len(), code), (1, 4400));
        assert!(reason.contains(expected), "{reason}");
    }
}

#[tokio::test]
async fn the_routes_are_documented() {
    let stage = Stage::new().await;
    let document = stage.serve(FeedConfig::default()).await.document;
    for path in ["/events", "/events/ws"] {
        let get = &document["paths"][path]["get"];
        let names: Vec<&str> =
            get["parameters"].as_array().unwrap().iter().filter_map(|p| p["name"].as_str()).collect();
        for name in ["from", "service", "aggregate", "type", "tenant", "live"] {
            assert!(names.contains(&name), "{path} {names:?}");
        }
    }
    assert!(document["paths"]["/events"]["get"]["responses"]["200"]["content"]["text/event-stream"].is_object());
}

/// Lines of an event stream, or a whole answer, over HTTP/1.0: without chunks in between.
async fn request(server: &Server, path: &str, version: &str, headers: &str) -> (String, BufReader<TcpStream>) {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "GET {path} HTTP/{version}\r\nHost: test\r\nConnection: close\r\nAuthorization: Bearer a\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(within("a head", reader.read_line(&mut head)).await.unwrap(), 0, "{head}");
    }
    (head, reader)
}

async fn plain(server: &Server, path: &str, headers: &str) -> (String, String) {
    let (head, mut reader) = request(server, path, "1.1", headers).await;
    let mut body = String::new();
    within("a body", reader.read_to_string(&mut body)).await.unwrap();
    (head, body)
}

struct Events(BufReader<TcpStream>);

impl Events {
    async fn open(server: &Server, query: &str, headers: &str) -> Self {
        let (head, reader) = request(server, &format!("/events?{query}"), "1.0", headers).await;
        assert!(head.contains(" 200 ") && head.contains("content-type: text/event-stream"), "{head}");
        assert!(head.contains("cache-control: no-cache") && head.contains("x-accel-buffering: no"), "{head}");
        let mut events = Self(reader);
        assert_eq!(events.next().await, Some([None, None, None]), "the time to wait before a retry");
        events
    }

    /// Name, id and data of the next event.
    async fn next(&mut self) -> Option<[Option<String>; 3]> {
        let mut event = [None, None, None];
        loop {
            let mut line = String::new();
            if within("a line", self.0.read_line(&mut line)).await.unwrap() == 0 {
                return None;
            }
            match line.trim_end().split_once(": ") {
                Some(("event", name)) => event[0] = Some(name.to_owned()),
                Some(("id", id)) => event[1] = Some(id.to_owned()),
                Some(("data", data)) => event[2] = Some(data.to_owned()),
                Some(("retry", _)) => {}
                _ if line == "\n" => return Some(event),
                _ => panic!("{line}"),
            }
        }
    }

    /// Number and id of the next event, which must be a stored one.
    async fn number(&mut self) -> (u64, String) {
        let [None, Some(id), Some(data)] = self.next().await.unwrap() else { panic!("no stored event") };
        let item: Value = serde_json::from_str(&data).unwrap();
        assert_eq!(item["cursor"], *id);
        (item["event"]["data"]["number"].as_u64().unwrap(), id)
    }
}

#[tokio::test]
async fn server_sent_events_resume_behind_the_last_id() {
    let stage = Stage::new().await;
    let server = stage.serve(FeedConfig::default()).await;
    stage.append("org-a", "1", &[sent(0), sent(1), sent(2)]).await;
    stage.append("org-b", "1", &[sent(99)]).await;

    let query = "from=earliest&service=identity,messaging";
    let mut events = Events::open(&server, query, "").await;
    let [name, id, _] = events.next().await.unwrap();
    assert_eq!((name.as_deref(), id.as_deref()), (Some("opened"), Some("identity:0,messaging:0")));
    assert_eq!(events.number().await, (0, "identity:1.1,messaging:0".to_owned()));
    let (number, id) = events.number().await;
    assert_eq!((number, id.as_str()), (1, "identity:1.2,messaging:0"));
    drop(events);
    until("the feed ends", || server.feed.open() == 0).await;

    stage.append("org-a", "1", &[note(3)]).await;
    let mut events = Events::open(&server, query, &format!("Last-Event-ID: {id}\r\n")).await;
    assert_eq!(events.next().await.unwrap()[1].as_deref(), Some(id.as_str()));
    let mut got = vec![events.number().await.0, events.number().await.0];
    got.sort_unstable();
    assert_eq!(got, [2, 3]);
    stage.append("org-a", "1", &[sent(4)]).await;
    let (number, cursor) = events.number().await;
    assert_eq!(number, 4);

    server.shutdown.cancel();
    let [name, id, data] = events.next().await.unwrap();
    assert_eq!((name.as_deref(), id), (Some("close"), Some(cursor.clone())));
    let data: Value = serde_json::from_str(&data.unwrap()).unwrap();
    assert_eq!((&data["code"], &data["cursor"]), (&json!(1001), &json!(cursor)));
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_last_event_id_that_is_no_cursor_is_400() {
    let stage = Stage::new().await;
    let server = stage.serve(FeedConfig::default()).await;
    for headers in ["Last-Event-ID: 17\r\n", "Last-Event-ID: identity:1\r\n", "Last-Event-ID: message\r\n"] {
        let (head, body) = plain(&server, "/events", headers).await;
        assert!(head.starts_with("HTTP/1.1 400 ") && body.contains("VALIDATION_FAILED"), "{head} {body}");
    }
}

#[tokio::test]
async fn a_slow_reader_of_server_sent_events_is_cut_and_told_where_to_go_on() {
    const EVENTS: u64 = 150;
    let stage = Stage::new().await;
    let config = FeedConfig { write_timeout: Duration::from_secs(1), ..FeedConfig::default() };
    let server = stage.serve(config).await;
    let mut events = Events::open(&server, "service=identity", "").await;
    events.next().await.expect("the opening");
    // More than the sockets' buffers hold.
    let text = "x".repeat(200_000);
    for number in 0..EVENTS {
        stage.append("org-a", "1", &[ParcelEvent::ParcelSent(ParcelSent { number, text: text.clone() })]).await;
    }
    until("the slow reader is cut", || server.feed.cut() == 1).await;
    assert_eq!(server.feed.open(), 1, "what is still unread is held for the client, and counts");
    let mut got = 0;
    let cursor = loop {
        let [name, id, data] = events.next().await.expect("a close event at the end");
        let data: Value = serde_json::from_str(&data.unwrap()).unwrap();
        if name.as_deref() == Some("close") {
            assert_eq!((&data["code"], &data["cursor"]), (&json!(4008), &json!(id)));
            break id.unwrap();
        }
        assert_eq!(data["event"]["data"]["number"], got);
        got += 1;
    };
    assert_eq!(cursor, format!("identity:{got}"));
    assert!((1..EVENTS).contains(&got), "{got}");
    assert_eq!(events.next().await, None);
    until("the place is free", || server.feed.open() == 0).await;
}
