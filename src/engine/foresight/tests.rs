use super::*;
use proptest::prelude::*;

const T0: Timestamp = Timestamp::from_secs(1_790_000_000);
const CAPACITY: u64 = 60_000;

fn at(secs: f64) -> Timestamp {
    T0.plus(Duration::from_secs_f64(secs))
}

fn told(remaining: u64) -> Told {
    Told { slot: Slot::Input, limit: CAPACITY, remaining, rounding: 1_000, full: None }
}

/// A pool that has seen a full bucket, and a body that is worth `tokens` of it.
fn pool() -> Pool {
    let mut pool = Pool::new(T0);
    pool.told(told(CAPACITY), T0);
    pool
}

fn body(tokens: u64) -> Option<u64> {
    Some(tokens * 4)
}

/// Calls of `tokens` each, `rate` a second, from one second to another; looks at every tick. Gives when a
/// warning was first up, and when it was first critical.
fn drive(pool: &mut Pool, from: f64, to: f64, rate: f64, tokens: u64) -> (Option<f64>, Option<f64>) {
    let (mut next, mut tick, mut up) = (from, from, (None, None));
    while tick < to {
        while next <= tick {
            pool.start(body(tokens), at(next));
            pool.end(body(tokens), Some((tokens, 1)), at(next));
            let left = pool.slots[Slot::Input as usize].unwrap().level.max(0.0);
            pool.told(told((left / 1_000.0).round() as u64 * 1_000), at(next));
            next += 1.0 / rate;
        }
        let signal = pool.look(&Knobs::default(), at(tick));
        up.0 = up.0.or(signal.warning.map(|_| tick));
        up.1 = up.1.or(signal.critical.then_some(tick));
        tick += 0.2;
    }
    up
}

proptest! {
    /// The level agrees with one computed from scratch out of everything that ever happened.
    #[test]
    fn levels_agree_with_a_naive_model(
        steps in prop::collection::vec((0.0_f64..20.0, 0_u64..8_000, prop::option::of(0_u64..=60)), 1..80),
    ) {
        let (mut pool, mut now) = (pool(), 0.0);
        // What happened, newest last: when, how much was taken, what a header then said.
        let mut history: Vec<(f64, f64, Option<f64>)> = Vec::new();
        for (dt, tokens, header) in steps {
            now += dt;
            pool.start(Some(tokens * 4), at(now));
            if let Some(thousands) = header {
                pool.told(told(thousands * 1_000), at(now));
            }
            history.push((now, tokens as f64, header.map(|thousands| thousands as f64 * 1_000.0)));
            let (mut level, mut before) = (CAPACITY as f64, 0.0);
            for (when, taken, header) in &history {
                level = (level + 1_000.0 * (when - before)).min(CAPACITY as f64) - taken;
                if let Some(header) = header {
                    let least = if *header == 0.0 { f64::NEG_INFINITY } else { header - 500.0 };
                    level = level.clamp(least, (header + 500.0).min(CAPACITY as f64));
                }
                before = *when;
            }
            let state = pool.slots[Slot::Input as usize].unwrap();
            prop_assert!((state.level - level).abs() < 1.0, "{} is not {level}", state.level);
        }
    }

    /// Whatever is told in whatever order, nothing panics, and nothing that is no number comes out.
    #[test]
    fn absurd_histories_are_survived(
        steps in prop::collection::vec((any::<i64>(), any::<u64>(), any::<u64>(), 0_u8..5, any::<bool>()), 1..60),
    ) {
        let mut pool = pool();
        for (micros, a, b, what, full) in steps {
            let now = Timestamp::from_micros(micros);
            match what {
                0 => drop(pool.start(Some(a), now)),
                1 => pool.end(Some(a), Some((a, b)), now),
                2 => pool.refused(a as f64, full, now),
                3 => pool.set_back(Duration::from_secs(a % 10_000)),
                _ => {
                    let full = full.then(|| Timestamp::from_micros(micros.wrapping_add(a as i64 % 100_000_000)));
                    let slot = Slot::ALL[(b % 4) as usize];
                    pool.told(Told { slot, limit: a.max(1), remaining: b, rounding: 1 + a % 1_000, full }, now);
                }
            }
            pool.look(&Knobs::default(), now);
            for slot in Slot::ALL {
                prop_assert!(!pool.score(slot, &Knobs::default()).is_nan());
                prop_assert!(pool.empty_in(slot, &Knobs::default()).is_none_or(|e| e.as_secs() <= 60));
            }
        }
    }
}

/// 12 minutes within the refill, then twice the refill: empty after a minute.
#[test]
fn a_step_is_announced_well_before_the_bucket_is_empty_and_turns_critical_near_the_end() {
    let mut pool = pool();
    assert_eq!(drive(&mut pool, 0.0, 720.0, 0.5, 1_000), (None, None), "traffic within the refill");
    let (warning, critical) = drive(&mut pool, 720.0, 779.0, 2.0, 1_000);
    let (warning, critical) = (warning.unwrap() - 720.0, critical.unwrap() - 720.0);
    assert!((5.0..45.0).contains(&warning), "empty after 60 s, announced after {warning}");
    assert!((45.0..59.0).contains(&critical), "{critical}");
}

#[test]
fn one_large_call_in_steady_traffic_announces_nothing() {
    let mut pool = pool();
    drive(&mut pool, 0.0, 600.0, 1.0, 500);
    pool.start(body(20_000), at(600.0));
    assert_eq!(drive(&mut pool, 600.1, 660.0, 1.0, 500), (None, None));
}

#[test]
fn a_cold_start_says_nothing_before_a_header_has_come() {
    let mut pool = Pool::new(T0);
    for n in 0..500 {
        let now = at(f64::from(n) / 10.0);
        pool.start(body(100_000), now);
        assert_eq!(pool.look(&Knobs::default(), now), Signal::default());
    }
    assert_eq!(pool.observed(), None);
    assert_eq!(pool.empty_in(Slot::Input, &Knobs::default()), None);
}

#[test]
fn what_others_take_is_expected_to_go_on() {
    let mut pool = pool();
    let mut first = None;
    for second in 0..60_u32 {
        // Ours is next to nothing; the header falls by 2,000 a second.
        let now = at(f64::from(second));
        pool.start(body(10), now);
        pool.told(told(60_000 - u64::from(second) * 1_000), now);
        if pool.look(&Knobs::default(), now).warning.is_some() {
            first.get_or_insert(second);
        }
    }
    assert!(first.is_some_and(|second| second < 50), "empty after 60 s, announced after {first:?}");
}

#[test]
fn a_refusal_ends_the_warning_and_silence_ends_what_is_known() {
    let mut pool = pool();
    drive(&mut pool, 0.0, 55.0, 2.0, 1_000);
    assert!(pool.look(&Knobs::default(), at(55.0)).warning.is_some());
    pool.refused(1_000.0, true, at(55.5));
    assert_eq!(pool.look(&Knobs::default(), at(55.6)), Signal::default(), "that is another alert's business");
    let mut pool = self::pool();
    pool.told(told(3_000), at(1.0));
    assert!(pool.look(&Knobs::default(), at(1.0)).critical, "5 % left");
    assert_eq!(pool.look(&Knobs::default(), at(61.5)), Signal::default(), "unobserved for a refill");
}

/// Requests are all but used up, input is not: the alert names requests.
#[test]
fn an_alert_names_the_bucket_that_is_low_and_stays_while_it_is() {
    let mut pool = pool();
    let requests = |remaining| Told { slot: Slot::Requests, limit: 100, remaining, rounding: 1, full: None };
    pool.told(Told { remaining: 36_000, ..told(0) }, at(0.5));
    pool.told(requests(3), at(1.0));
    let signal = pool.look(&Knobs::default(), at(1.0));
    assert_eq!(signal, Signal { warning: Some(Slot::Requests), critical: true });
    // A client that paces itself at 3 % for ten minutes: not a forecast that was wrong, but a fact.
    for second in 2..600_u32 {
        pool.told(requests(3), at(f64::from(second)));
        assert!(pool.look(&Knobs::default(), at(f64::from(second))).critical, "{second}");
    }
}

#[test]
fn a_refusal_by_another_limit_says_nothing_of_these_buckets() {
    let mut pool = pool();
    drive(&mut pool, 0.0, 55.0, 2.0, 1_000);
    pool.refused(1_000.0, false, at(55.1));
    assert!(pool.look(&Knobs::default(), at(55.2)).warning.is_some());
}

#[test]
fn another_limit_starts_the_level_anew() {
    let mut pool = pool();
    pool.told(told(5_000), at(1.0));
    pool.told(Told { limit: 600_000, ..told(550_000) }, at(2.0));
    let state = pool.slots[Slot::Input as usize].unwrap();
    assert_eq!((state.capacity, state.level), (600_000.0, 550_000.0));
}

/// A provider that refills in half a minute: 1,500 a second is within that, though not within a minute's pace.
#[test]
fn the_pace_of_the_refill_is_learnt_from_resets() {
    let mut pool = pool();
    let (mut level, mut late) = (60_000.0_f64, 0);
    for second in 0..600_u32 {
        let now = at(f64::from(second));
        // A draw that swings, so that something is missing most of the time: 1,500 a second in the mean.
        let drawn = if second / 20 % 2 == 0 { 2_900_u64 } else { 100 };
        level = (level + 2_000.0).min(60_000.0) - drawn as f64;
        pool.start(body(drawn), now);
        pool.end(body(drawn), Some((drawn, 1)), now);
        let full = at((f64::from(second) + (60_000.0 - level) / 2_000.0).ceil());
        let remaining = (level / 1_000.0).round() as u64 * 1_000;
        pool.told(Told { full: Some(full), ..told(remaining) }, now);
        late += u32::from(second > 300 && pool.look(&Knobs::default(), now).warning.is_some());
    }
    let state = pool.slots[Slot::Input as usize].unwrap();
    assert!((1_500.0..2_300.0).contains(&state.refill), "{}", state.refill);
    assert_eq!(late, 0);
}

#[test]
fn late_headers_say_nothing() {
    let mut pool = pool();
    pool.told(told(30_000), at(10.0));
    pool.told(told(2_000), at(5.0));
    assert!(pool.slots[Slot::Input as usize].unwrap().level >= 29_000.0);
}

#[test]
fn the_size_of_a_token_is_learnt() {
    let mut pool = pool();
    for n in 0..300 {
        let now = at(f64::from(n) * 10.0);
        pool.start(Some(9_000), now);
        pool.end(Some(9_000), Some((1_000, 10)), now);
    }
    assert!((pool.start(Some(9_000), at(4_000.0)) - 1_000.0).abs() < 1.0);
}

/// A rung that cried wolf often is not heard, until it has been right again.
#[test]
fn a_bad_record_silences_a_rung_and_a_good_one_gives_it_its_voice_back() {
    let mut rung = Rung::new(1.0);
    let mut now = 0.0;
    let mut shadow = |rung: &mut Rung, right: bool| {
        rung.step(2.0, 0.5, None, now);
        let speaks = rung.speaks(2.0, WANTED);
        if right {
            rung.came_true(true, now + 1.0);
        }
        for _ in 0..400 {
            now += 1.0;
            rung.step(0.0, 1.0, None, now);
        }
        speaks
    };
    assert!(shadow(&mut rung, false), "four of five are assumed");
    for _ in 0..10 {
        shadow(&mut rung, false);
    }
    assert!(!shadow(&mut rung, false));
    for _ in 0..40 {
        shadow(&mut rung, true);
    }
    assert!(shadow(&mut rung, true));
}
