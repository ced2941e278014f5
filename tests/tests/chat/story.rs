//! The story of an exchange as the log tells it, and as it tells of a log that was tampered with.

use symbia_events::KeyRing;
use symbia_workers::story::tell;
use time::OffsetDateTime;

use super::stage::{House, run_is};

#[tokio::test(flavor = "multi_thread")]
async fn it_says_who_what_why_by_which_model_and_on_which_evidence() {
    let house = House::open().await;
    let ada = house.register("Ada").await;
    let id = house.talk(&ada, &["assistant:coordinator"]).await;
    let mut events = house.follow(&ada, &id, "latest").await;
    house.say(&ada, &id, "count, please").await;
    events.until(run_is("completed")).await;

    let (client, secrets) = (&house.platform.nats, &house.platform.secrets);
    let story = tell(client, &house.keys, secrets, &id).await.unwrap();
    let text = story.text();
    for expected in [
        "Ada opened the conversation",
        "assistant:coordinator takes part as member",
        "#1 Ada said",
        "count, please",
        "coordinator was to answer (only-candidate)",
        "by rule set coordinator:default, version 1",
        "rule 'Help' does not match: message.content matches does not hold",
        "rule 'Ask the model' matches",
        "attempt 1: scripted / counting-1",
        "scripted / counting-1 read 5 tokens and wrote 3",
        "#2 assistant:coordinator said",
        "one two three",
        "all signatures verified",
    ] {
        assert!(text.contains(expected), "{expected} is missing in\n{text}");
    }
    assert_eq!(story.doubts().count(), 0);

    // With keys that signed nothing of it, nothing of it is believed, and nothing that it says is told.
    let others = KeyRing::generate(OffsetDateTime::now_utc());
    let story = tell(client, &others, secrets, &id).await.unwrap();
    assert!(story.doubts().count() > 0 && !story.text().contains("count, please"));

    let kid = symbia_projections::messaging::content_key_id(&ada.org, &id);
    secrets.destroy_conversation_keys(&kid).await.unwrap();
    let text = tell(client, &house.keys, secrets, &id).await.unwrap().text();
    assert!(text.contains("[erased]") && !text.contains("count, please"), "{text}");
    assert!(tell(client, &house.keys, secrets, "nowhere").await.is_err());
}
