//! Every query of every shipped dashboard returns data from what a real run produced.

use crate::programs::{Program, root};
use crate::support::wait_for;
use serde_json::Value;

/// The queries of a dashboard, by panel, as Grafana would send them with every variable at "All".
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let mut todo: Vec<&Value> = dashboard["panels"].as_array().unwrap().iter().collect();
    let variables: Vec<&str> = dashboard["templating"]["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v["name"].as_str().unwrap())
        .collect();
    let mut found = Vec::new();
    while let Some(panel) = todo.pop() {
        todo.extend(panel["panels"].as_array().into_iter().flatten());
        for target in panel["targets"].as_array().into_iter().flatten() {
            let mut query = target["expr"]
                .as_str()
                .unwrap()
                .replace("$__rate_interval", "10s")
                .replace("$__range", "60s");
            for name in &variables {
                query = query.replace(&format!("${{{name}}}"), ".*").replace(&format!("${name}"), ".*");
            }
            assert!(!query.contains('$'), "a variable is left: {query}");
            found.push((panel["title"].as_str().unwrap_or_default().to_owned(), query));
        }
    }
    found
}

pub async fn every_query_returns_data(prometheus: &Program) {
    let mut checked = 0;
    for file in std::fs::read_dir(root().join("dashboards")).unwrap().map(|e| e.unwrap().path()) {
        if file.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        for (panel, query) in queries(&dashboard) {
            wait_for(&format!("data of panel {panel:?}: {query}"), async || {
                let now = jiff::Timestamp::now().as_second();
                let url = format!("http://{}/api/v1/query_range", prometheus.address);
                let range =
                    [("start", (now - 60).to_string()), ("end", now.to_string()), ("step", "1".to_owned())];
                let request = reqwest::Client::new().get(url).query(&[("query", &query)]).query(&range);
                let answer: Value = request.send().await.unwrap().json().await.unwrap();
                assert_eq!(answer["status"], "success", "{panel}: {answer}");
                (!answer["data"]["result"].as_array().unwrap().is_empty()).then_some(())
            })
            .await;
            checked += 1;
        }
    }
    assert!(checked > 20, "{checked}");
}
