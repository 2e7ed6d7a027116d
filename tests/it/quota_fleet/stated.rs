//! What the provider's headers tell one process of a shared limit holds for all of them.

use std::time::Instant;

use sluicegate::types::RateLimits;

use super::*;

fn limits(tpm: u32) -> Admission {
    Admission::new().tpm(tpm).burst(60 * SECOND)
}

/// So much is left of this limit.
fn says(limit: u64, remaining: u64) -> RateLimits {
    let mut limits = RateLimits::default();
    let missing = Duration::from_secs(60 * (limit - remaining) / limit);
    (limits.limit_tokens, limits.remaining_tokens) = (Some(limit), Some(remaining));
    limits.reset_tokens = Some(missing);
    limits
}

/// An answer of 10 tokens says so, this long ago; until Redis knows it.
async fn told(gate: &AdmissionGate, limits: RateLimits, age: Duration) {
    let permit = gate.admit(&Job::new("m").tokens(10, 0)).await.unwrap();
    permit.settle(Outcome::answered(Some(&Usage::new(10, 0)), SECOND).with_limits(Some(&limits), age));
    let trips = gate.fleet().unwrap().trips;
    // One may be under way.
    until("it is told", || async { gate.fleet().unwrap().trips >= trips + 2 }).await;
}

/// Whether the limit in force is below this.
async fn is_above(gate: &AdmissionGate, tokens: u64) -> bool {
    let deadline = Some(Instant::now() + Duration::from_millis(50));
    let answer = gate.admit(&Job::new("m").tokens(tokens, 0).deadline(deadline)).await;
    answer.is_err_and(|error| error.kind() == ErrorKind::InvalidRequest)
}

/// Until all know that this limit is in force.
async fn in_force(gates: &[(AdmissionGate, Env)], limit: u64) {
    for (gate, _) in gates {
        until(&format!("{limit} holds"), || async {
            use_it(gate).await;
            !is_above(gate, limit).await && is_above(gate, limit + 1).await
        })
        .await;
    }
}

async fn use_it(gate: &AdmissionGate) {
    drop(gate.admit(&Job::new("m").tokens(1, 0)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stated_limit_holds_for_all_whatever_is_set() {
    let server = Server::start(&[]).await;
    // One who was told something long ago, one with too low a limit, one with too high a one.
    let gates: Vec<_> = [6_000, 6_000, 60_000].map(|tpm| gate(&limits(tpm), &server)).into();
    let begun = Instant::now();
    let [early, low, high] = [0, 1, 2].map(|place| &gates[place].0);
    for (gate, _) in &gates {
        use_it(gate).await;
    }
    in_force(&gates, 6_000).await;
    told(low, says(9_000, 9_000), Duration::ZERO).await;
    in_force(&gates, 9_000).await;
    told(high, says(3_000, 3_000), Duration::ZERO).await;
    in_force(&gates, 3_000).await;
    // Whoever is told, or says, that it is higher is wrong as long as the others were told otherwise of late.
    told(low, says(9_000, 9_000), Duration::ZERO).await;
    in_force(&gates, 3_000).await;
    // What was heard before does not count.
    told(early, says(1_000, 1_000), begun.elapsed()).await;
    in_force(&gates, 3_000).await;
    let newcomer = gate(&limits(60_000), &server);
    use_it(&newcomer.0).await;
    assert!(is_above(&newcomer.0, 3_001).await, "known from the first trip on");
    end(vec![newcomer]).await;
    end(gates).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_trust_headers_holds_the_limit_down_and_follows_nobody() {
    let server = Server::start(&[]).await;
    let gates = vec![gate(&limits(6_000), &server), gate(&limits(2_000).trust_headers(false), &server)];
    for (gate, _) in &gates {
        use_it(gate).await;
    }
    told(&gates[0].0, says(4_000, 4_000), Duration::ZERO).await;
    told(&gates[1].0, says(500, 500), Duration::ZERO).await;
    in_force(&gates, 2_000).await;
    let [trusts, other] = <[_; 2]>::try_from(gates).unwrap();
    end(vec![other]).await;
    let alone = [trusts];
    in_force(&alone, 4_000).await;
    end(alone.into()).await;
}

/// What may still be used of the limit, by all.
async fn free(server: &Server) -> i64 {
    let keys = server.command(&["KEYS", "sluicegate:limits:*"]).await;
    let key = keys.lines().find(|key| key.contains(":Tokens:")).unwrap();
    let fields = server.command(&["HGETALL", key]).await;
    let fields: Vec<_> = fields.lines().collect();
    let sum = fields.chunks(2).map(|pair| match pair {
        ["level", level] => level.parse().unwrap(),
        ["withheld", withheld] => -withheld.parse::<i64>().unwrap(),
        [_, process] if process.contains(' ') => process.split(' ').next().unwrap().parse().unwrap(),
        _ => 0,
    });
    sum.sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_is_set_once_by_the_latest_word() {
    let server = Server::start(&[]).await;
    let gates: Vec<_> = (0..2).map(|_| gate(&limits(600), &server)).collect();
    for (gate, _) in &gates {
        use_it(gate).await;
    }
    let begin = Instant::now();
    let most = |left: i64| left + 1 + 10 * (begin.elapsed().as_secs() as i64 + 1);
    told(&gates[0].0, says(600, 100), Duration::ZERO).await;
    let left = free(&server).await;
    assert!((90..most(100)).contains(&left), "{left}");
    told(&gates[1].0, says(600, 90), Duration::ZERO).await;
    let left = free(&server).await;
    assert!((70..most(90)).contains(&left), "{left}: taken twice");
    let deadline = Some(Instant::now() + SECOND);
    let large = gates[0].0.admit(&Job::new("m").tokens(400, 0).deadline(deadline)).await;
    assert_eq!(large.err().map(|error| error.kind()), Some(ErrorKind::Deadline));
    // Back to what we know of, and what was heard before that changes nothing.
    let between = Instant::now();
    told(&gates[0].0, says(600, 600), Duration::ZERO).await;
    told(&gates[1].0, says(600, 0), between.elapsed()).await;
    let left = free(&server).await;
    assert!(left > 500, "{left}");
    drop(gates[1].0.admit(&Job::new("m").tokens(400, 0)).await.unwrap());
    end(gates).await;
}
