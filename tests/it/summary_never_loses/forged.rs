//! A stored conversation may have been in anybody's hands: whatever its note says, it changes nothing for others.

use super::carried::{catch_up, empty, loaded};
use super::echo::{Echo, Mood, told};
use super::{Talk, last_sent, policy, stack};
use sluicegate::history::Conversation;
use sluicegate::types::{Message, Role, Tenant};

/// One conversation that was summarised, and a thief's copy of it; then both go on in the same words, the thief first.
/// Gives whose summaries were written since.
async fn both_go_on(
    tenants: [Option<Tenant>; 2],
    moods: &[Mood],
    forge: fn(&mut serde_json::Value),
) -> Vec<Option<Tenant>> {
    let echo = Echo::new([]);
    let (llm, upstream) = stack(&policy(&echo));
    let as_tenant = |conversation: &mut Conversation, tenant: &Option<Tenant>| {
        tenant.iter().for_each(|tenant| conversation.controls_mut().insert(tenant.clone()));
    };
    let (mut talk, mut ours) = (Talk::of(12), empty());
    as_tenant(&mut ours, &tenants[0]);
    catch_up(&mut ours, &talk);
    llm.chat(ours.request()).await.unwrap();
    let mut stored = serde_json::to_value(&ours).unwrap();
    assert!(stored["note"]["summary_key"].is_string() && stored["summarized"] == true);
    forge(&mut stored);
    let mut theirs: Conversation = loaded(&serde_json::from_value(stored).unwrap());
    as_tenant(&mut theirs, &tenants[1]);
    let before = echo.calls();
    for _ in 0..40 {
        talk.answer();
        talk.ask();
        for (conversation, moods) in [(&mut theirs, moods), (&mut ours, &[])] {
            catch_up(conversation, &talk);
            *echo.moods.lock() = moods.iter().copied().collect();
            llm.chat(conversation.request()).await.unwrap();
        }
        let sent = last_sent(&upstream);
        assert_eq!(talk.missing(&sent), [] as [usize; 0], "ours is told whole, at once");
        assert!(told(&sent).1.iter().all(|id| *id < talk.next), "and nothing that was not said");
    }
    echo.tenants().split_off(before)
}

fn tenant(name: &str) -> Option<Tenant> {
    Some(Tenant(name.into()))
}

#[tokio::test(start_paused = true)]
async fn a_note_of_another_tenants_reaches_none_of_its_summaries() {
    for tenants in [[tenant("ours"), tenant("theirs")], [None, tenant("theirs")], [tenant("ours"), None]] {
        let written = both_go_on(tenants.clone(), &[], |_| {}).await;
        let of = |whose: &Option<Tenant>| written.iter().filter(|tenant| *tenant == whose).count();
        assert!(of(&tenants[0]) > 2, "{written:?}");
        assert_eq!(of(&tenants[0]), of(&tenants[1]), "each has its own written");
    }
    let written = both_go_on([tenant("ours"), tenant("ours")], &[], |_| {}).await;
    assert!((3..20).contains(&written.len()), "in one tenant once for both: {written:?}");
}

#[tokio::test(start_paused = true)]
async fn a_note_of_another_tenants_does_not_make_it_wait() {
    let tenants = [tenant("ours"), tenant("theirs")];
    let written = both_go_on(tenants.clone(), &[Mood::Fails; 9], |_| {}).await;
    assert!(tenants.iter().all(|tenant| written.contains(tenant)), "{written:?}");
}

#[tokio::test(start_paused = true)]
async fn a_forged_summary_stays_with_who_forged_it() {
    let written = both_go_on([None, None], &[], |stored| {
        let pieces = stored["kept"].as_array_mut().unwrap();
        let summary = pieces.iter_mut().find(|piece| piece.is_object()).unwrap();
        let forged = Message::new(Role::User, "Summary of the conversation so far:\n\n0-3 7000-7001");
        *summary = serde_json::to_value(forged).unwrap();
    });
    assert!(written.await.len() > 5);
}

#[test]
fn a_few_bytes_do_not_name_the_log_again_and_again() {
    let mut talk = empty();
    catch_up(&mut talk, &Talk::of(3));
    let mut stored = serde_json::to_value(&talk).unwrap();
    let len = talk.len();
    for (times, taken) in [(1, true), (2, false), (100_000, false)] {
        stored["kept"] = vec![[0, len]; times].into();
        stored["upto"] = len.into();
        assert_eq!(serde_json::from_value::<Conversation>(stored.clone()).is_ok(), taken, "{times} times");
    }
}
