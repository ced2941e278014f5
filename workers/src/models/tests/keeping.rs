//! How long a model stays in memory, as those say who ask.

use symbia_nats::inference::Keep;

use super::*;

async fn kept(handle: &Handle) -> Option<u64> {
    handle.model("pico-chat").await.unwrap().loaded.unwrap().keep_seconds
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_says_how_long_a_model_stays_or_prolongs_that() {
    let (_service, handle) = start(|options| options.idle_unload = Duration::from_secs(300));
    let asked = async |keep: Option<Keep>| {
        assert_eq!(answer(&handle.keeping(keep), ask("what is 2+2?")).await.0, "2 + 2 = 4");
        kept(&handle).await
    };
    assert_eq!(asked(None).await, Some(300));
    assert_eq!(asked(Some(Keep::AtLeast(1))).await, Some(300), "nobody's time becomes shorter");
    assert_eq!(asked(Some(Keep::AtLeast(900))).await, Some(900));
    assert_eq!(asked(None).await, Some(900), "it stays as it was said last");
    assert_eq!(asked(Some(Keep::For(60))).await, Some(60));
    assert_eq!(asked(Some(Keep::For(-1))).await, None, "for ever");

    // What is loaded anew only to stay for another time is not loaded anew.
    let before = handle.model("pico-chat").await.unwrap().loaded.unwrap();
    let load = Load { model: "pico-chat".into(), keep_alive: Some(30), ..Load::default() };
    assert_eq!(events(handle.load(&load, &CancellationToken::new()).unwrap()).await, [Event::Loaded]);
    let after = handle.model("pico-chat").await.unwrap().loaded.unwrap();
    assert_eq!((after.keep_seconds, after.load_ms, after.loaded_at), (Some(30), before.load_ms, before.loaded_at));

    // Kept no time, it goes when it has answered, and comes again.
    for _ in 0..2 {
        let gone = handle.keeping(Some(Keep::For(0)));
        assert_eq!(answer(&gone, ask("what is 2+2?")).await.0, "2 + 2 = 4");
        let unloaded = async {
            while !handle.loaded().is_empty() {
                handle.changed().await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(20), unloaded).await.is_ok(), "{:?}", handle.loaded());
    }
    assert_eq!(asked(None).await, Some(300), "what was said of it went with it");
}
