//! Lines as real programs write them (envoy 1.40, nginx, HAProxy, LiteLLM 1.100), and as hostile ones do.

use super::*;
use proptest::prelude::*;

fn read(preset: Preset, line: &str) -> Seen {
    Mapping::new(preset, &[], &[]).read(line.as_bytes()).unwrap()
}

#[test]
fn envoys_flags_tell_its_own_refusal_from_the_providers() {
    let own = read(
        Preset::Envoy,
        r#"{"status":429,"flags":"RL","details":"local_rate_limited","upstream_host":null,"path":"/v1/messages","started":"2026-11-24T02:50:59.524Z","duration_ms":0,"headers":{"request-id":null}}"#,
    );
    assert_eq!((own.answered, own.status), (Some(Answered::Gateway), Some(429)));
    let upstream = read(
        Preset::Envoy,
        r#"{"status":429,"flags":"-","details":"via_upstream","path":"/v1/messages?beta=true","started":"2026-11-24T02:36:25.876Z","duration_ms":41,"headed_ms":"1","headers":{"anthropic-ratelimit-requests-remaining":"0","retry-after":"2"},"request_bytes":27}"#,
    );
    assert_eq!(upstream.answered, None, "it says only that it was not Envoy");
    assert_eq!(upstream.path.as_deref(), Some("/v1/messages"));
    assert_eq!(upstream.ended.unwrap().since(upstream.started.unwrap()), Duration::from_millis(41));
    assert_eq!(upstream.headed.unwrap().since(upstream.started.unwrap()), Duration::from_millis(1));
    assert_eq!(upstream.headers.len(), 2);
    assert_eq!(upstream.request_bytes, Some(27));
}

#[test]
fn an_envoy_line_of_a_call_that_runs_tells_its_head_and_no_end() {
    let line = |entry: &str| {
        read(
            Preset::Envoy,
            &format!(
                r#"{{"entry":"{entry}","stream_id":"s1","cluster":"anthropic","started":"1795549352.580266","t":"1795549357.578943","request_ms":1,"headed_ms":2,"duration_ms":4998,"status":200,"flags":"-"}}"#
            ),
        )
    };
    let early = line("DownstreamPeriodic");
    assert_eq!(
        (early.own.as_deref(), early.service.as_deref(), early.ended),
        (Some("s1"), Some("anthropic"), None)
    );
    assert_eq!(early.headed.unwrap().since(early.started.unwrap()), Duration::from_millis(1));
    assert!(line("DownstreamEnd").ended.is_some());
}

#[test]
fn an_envoy_gateways_flat_line_has_its_headers_by_their_full_names() {
    let flat = read(
        Preset::Envoy,
        r#"{"status":"200","http.response.header.request-id":"req_1","http.response.header.retry-after":"-"}"#,
    );
    assert_eq!((flat.headers.len(), flat.headers["request-id"].as_bytes()), (1, &b"req_1"[..]));
}

#[test]
fn nginx_and_haproxy_say_that_they_answered_and_never_that_a_provider_did() {
    let nginx = |by: &str| {
        read(
            Preset::Nginx,
            &format!(
                r#"{{"t":1795549352.5,"request_time":2.0,"upstream_response_time":"1.5","upstream_header_time":"0.5","status":429,"answered_by":"{by}","path":"/v1/messages"}}"#
            ),
        )
    };
    assert_eq!(nginx("gateway").answered, Some(Answered::Gateway));
    let passed = nginx("upstream");
    assert_eq!(passed.answered, None, "it may be another gateway");
    assert_eq!(passed.ended.unwrap().since(passed.headed.unwrap()), Duration::from_secs(1));
    assert_eq!(passed.ended.unwrap().since(passed.started.unwrap()), Duration::from_secs(2));
    let haproxy = |server: &str, ts: &str| {
        read(
            Preset::Haproxy,
            &format!(r#"{{"t":1795549522988e-3,"status":429,"server":"{server}","ts":"{ts}"}}"#),
        )
    };
    assert_eq!(haproxy("<NOSRV>", "PR").answered, Some(Answered::Gateway));
    assert_eq!(haproxy("api1", "SC").answered, Some(Answered::Gateway));
    assert_eq!(haproxy("api1", "--").answered, None);
    assert_eq!(haproxy("api1", "--").ended, Some(Timestamp::from_micros(1_795_549_522_988_000)));
}

#[test]
fn litellms_payload_tells_its_own_limits_from_the_vendors_and_from_a_cooldown() {
    let own = read(
        Preset::Litellm,
        r#"{"status":"failure","model":"claude-sonnet","error_information":{"error_code":"429","error_class":"ProxyRateLimitError","error_message":"Rate limit exceeded for api_key: ad11. Limit type: requests. Current limit: 1","error_rate_limit_category":"litellm_rate_limit","error_rate_limit_type":"requests"},"hidden_params":{"additional_headers":{"retry-after":"60","rate_limit_type":"requests"}},"startTime":1795488000.5,"endTime":1795488001.5}"#,
    );
    assert_eq!((own.status, own.answered), (Some(429), Some(Answered::Gateway)));
    assert!(own.body.unwrap().contains("litellm_rate_limit"));
    let vendor = read(
        Preset::Litellm,
        r#"{"status":"failure","error_information":{"error_code":"429","error_rate_limit_category":"vendor_rate_limit"},"api_base":"https://api.anthropic.com","hidden_params":{"additional_headers":{"request-id":"req_1","anthropic-ratelimit-requests-remaining":0}},"litellm_call_id":"c1"}"#,
    );
    assert_eq!(
        (vendor.answered, vendor.ids),
        (Some(Answered::Upstream), vec!["req_1".to_owned(), "c1".to_owned()])
    );
    assert_eq!(vendor.headers.len(), 2);
    let of_a_model = r#"{"error_information":{"error_code":"429","error_rate_limit_category":"vendor_rate_limit"},"api_base":""}"#;
    assert_eq!(read(Preset::Litellm, of_a_model).answered, Some(Answered::Gateway), "no vendor was asked");
    let cooldown = read(
        Preset::Litellm,
        r#"{"status":"failure","error_information":{"error_code":"","error_class":"RouterRateLimitError","error_message":"No deployments available for selected model, Try again in 2 seconds."}}"#,
    );
    assert_eq!((cooldown.status, cooldown.answered), (Some(429), None));
    let success = read(
        Preset::Litellm,
        r#"{"status":"success","prompt_tokens":20,"completion_tokens":4,"metadata":{"usage_object":{"cache_read_input_tokens":5,"cache_creation_input_tokens":3}},"messages":[{"content":"secret"}]}"#,
    );
    let usage = success.usage.unwrap();
    assert_eq!((success.status, usage.input.get(), usage.cache_read.get()), (Some(200), 12, 5));
}

#[test]
fn fields_of_ones_own_are_found_by_their_paths_whether_nested_or_named_with_dots() {
    let own = |line: &str| {
        let fields = [("status", "http.response.status"), ("path", "req.uri"), ("headers", "resp")];
        let fields: Vec<(String, String)> = fields.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
        let headers = [("retry-after".to_owned(), "retry".to_owned())];
        Mapping::new(Preset::Report, &fields, &headers).read(line.as_bytes()).unwrap()
    };
    let nested = own(
        r#"{"http":{"response":{"status":200}},"req":{"uri":"/v1/messages"},"resp":{"request-id":["a","b"]},"retry":7,"big":{"deep":[{"a":[1,2,{"b":"c"}]}]}}"#,
    );
    assert_eq!((nested.status, nested.path.as_deref()), (Some(200), Some("/v1/messages")));
    assert_eq!(nested.headers.get_all("request-id").iter().count(), 2);
    assert_eq!(nested.headers["retry-after"], "7");
    assert_eq!(own(r#"{"http.response.status":"503"}"#).status, Some(503));
}

#[test]
fn times_are_told_apart_by_their_size() {
    let second = Timestamp::from_secs(1_795_000_000);
    for text in ["1795000000", "1795000000.0", "1795000000000", "1795000000000000", "1795000000000000000"] {
        assert_eq!(moment(text), Some(second), "{text}");
    }
    assert_eq!(moment("2026-11-18T11:06:40Z"), Some(second));
    assert_eq!(moment("2026-11-18T12:06:40+01:00"), Some(second));
    for text in ["", "soon", "-5", "NaN", "1e400", "inf"] {
        assert_eq!(moment(text), None, "{text}");
    }
}

#[test]
fn what_says_nothing_or_is_broken_says_so() {
    let mapping = Mapping::new(Preset::Report, &[], &[]);
    assert_eq!(mapping.read(br#"{"level":"info","msg":"hello"}"#).unwrap_err(), Nothing::NoField);
    assert_eq!(mapping.read(b"{}").unwrap_err(), Nothing::NoField);
    for line in [&b"GET / 200"[..], b"{", b"{\"status\":200}x", b"\xff\xfe\x00", b"[1"] {
        assert!(matches!(mapping.read(line), Err(Nothing::Broken(_))), "{line:?}");
    }
    let seen = mapping.read(br#"{"status":99999,"path":null,"headers":{"bad name":"x","ok":"a\u0000b"}}"#);
    assert!(seen.is_err() || seen.unwrap().headers.is_empty());
}

proptest! {
    #[test]
    fn no_line_breaks_a_mapping(line in proptest::collection::vec(any::<u8>(), 0..200)) {
        for preset in Preset::ALL {
            drop(Mapping::new(preset, &[], &[]).read(&line));
        }
    }

    #[test]
    fn no_value_breaks_a_mapping(status in any::<f64>(), text in ".*", n in any::<i64>()) {
        let value = serde_json::json!({
            "status": status, "t": n, "started": text, "duration": status, "duration_ms": n, "headers": {"a": text, "b": n},
            "body": [text], "request_id": n, "traceparent": text, "path": text, "call": n, "flags": text,
        });
        drop(Mapping::new(Preset::Envoy, &[], &[]).read(value.to_string().as_bytes()));
    }
}
