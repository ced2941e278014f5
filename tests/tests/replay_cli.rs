//! `symbia replay` with the real binary: the same log gives the same state, and an earlier one an earlier state.

use anyhow::Context;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use symbia_tests::binary::Installation;

type Tested = anyhow::Result<()>;

async fn scratch_databases(house: &Installation) -> anyhow::Result<Vec<String>> {
    let mut connection = PgConnection::connect(house.running()?["database_url"].as_str().context("no URL")?).await?;
    let select = "SELECT datname::text FROM pg_database WHERE datname LIKE 'symbia_replay_%'";
    Ok(sqlx::query_scalar(select).fetch_all(&mut connection).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_gives_the_live_state_and_an_earlier_one_less() -> Tested {
    let mut house = Installation::new()?;
    house.start_counted()?;
    for number in 1..=3 {
        house.found(number)?;
    }
    let middle = house.run(&["log", "show", "identity:4"])?.expect(0)?.json()?["storedAt"].clone();
    house.rename(2, "Later")?;

    let latest = house.run(&["replay", "--to", "latest"])?.expect(0)?.json()?;
    assert_eq!(latest["equalsLive"], true, "{latest}");
    assert_eq!((&latest["events"], &latest["runs"], &latest["modelCalls"]), (&json!(13), &json!(0), &json!(0)));
    assert_eq!(house.run(&["replay"])?.expect(0)?.json()?["stateHash"], latest["stateHash"]);
    assert_eq!(house.run(&["replay", "--to", "identity:7"])?.expect(0)?.json()?["equalsLive"], true);

    let earlier = house.run(&["replay", "--to", "identity:4"])?.expect(0)?.json()?;
    assert_eq!((&earlier["events"], &earlier["equalsLive"]), (&json!(9), &json!(null)), "{earlier}");
    assert_ne!(earlier["stateHash"], latest["stateHash"]);
    let by_time = house.run(&["replay", "--to", middle.as_str().context("no time")?])?.expect(0)?.json()?;
    assert_eq!(by_time["stateHash"], earlier["stateHash"], "the same point by the time of its last message");
    assert_eq!(by_time["projections"][0]["positions"]["identity"], 4);
    let before_all = house.run(&["replay", "--to", "2020-01-01T00:00:00Z"])?.expect(0)?.json()?;
    assert_eq!(before_all["events"], 0);

    let beyond = house.run(&["replay", "--to", "identity:8"])?.expect(1)?;
    assert!(beyond.err.contains("ends at 7"), "{}", beyond.err);
    let unclear = house.run(&["replay", "--to", "yesterday"])?.expect(1)?;
    assert!(unclear.err.contains("RFC 3339"), "{}", unclear.err);

    assert_eq!(scratch_databases(&house).await?, Vec::<String>::new(), "nothing is left behind");
    let kept = house.run(&["replay", "--keep"])?.expect(0)?.json()?;
    let url = kept["database"].as_str().context("no URL")?;
    let scratch = scratch_databases(&house).await?;
    assert_eq!(scratch.len(), 1);
    let user = url.strip_prefix("postgresql://").and_then(|rest| rest.split('@').next());
    assert!(url.ends_with(&scratch[0]) && user.is_some_and(|user| !user.contains(':')), "{url}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_state_that_was_changed_by_hand_is_noticed() -> Tested {
    let mut house = Installation::new()?;
    house.start_counted()?;
    house.found(1)?;
    assert_eq!(house.run(&["replay"])?.expect(0)?.json()?["equalsLive"], true);
    let mut connection = PgConnection::connect(house.running()?["database_url"].as_str().context("no URL")?).await?;
    let change = "SET ROLE symbia_projector; UPDATE identity.organizations SET name = 'Mine'";
    sqlx::raw_sql(change).execute(&mut connection).await?;
    assert_eq!(house.run(&["replay"])?.expect(3)?.json()?["equalsLive"], false);
    Ok(())
}
