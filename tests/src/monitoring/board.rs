//! What a Grafana dashboard asks of Prometheus.

use serde_json::Value;

/// A dashboard of `dashboards/grafana/dashboards`.
#[derive(Debug)]
pub struct Board {
    pub json: Value,
}

/// A panel that shows something: not a row.
#[derive(Debug)]
pub struct Panel {
    pub title: String,
    pub json: Value,
    pub queries: Vec<Query>,
}

#[derive(Debug)]
pub struct Query {
    /// With Grafana's variables.
    pub expr: String,
    /// Of one moment, not of a range.
    pub instant: bool,
}

/// A variable that is filled from the values of a label.
#[derive(Debug)]
pub struct Variable {
    pub name: String,
    pub metric: String,
    pub label: String,
}

impl Board {
    #[track_caller]
    pub fn read(uid: &str) -> Self {
        let text = super::text(&format!("grafana/dashboards/{uid}.json"));
        Self { json: serde_json::from_str(&text).expect("a dashboard is JSON") }
    }

    /// Those in folded rows too.
    pub fn panels(&self) -> Vec<Panel> {
        let top = self.json["panels"].as_array().expect("panels");
        let all = top.iter().flat_map(|panel| {
            let inner = panel["panels"].as_array().cloned().unwrap_or_default();
            std::iter::once(panel.clone()).chain(inner)
        });
        all.filter(|json| json["type"] != "row").map(panel).collect()
    }

    /// Those that ask Prometheus for values.
    #[track_caller]
    pub fn variables(&self) -> Vec<Variable> {
        let all = self.json["templating"]["list"].as_array().expect("variables");
        all.iter()
            .filter(|variable| variable["type"] == "query")
            .map(|variable| {
                let query = variable["query"]["query"].as_str().expect("a query");
                let inner = query.strip_prefix("label_values(").and_then(|q| q.strip_suffix(')'));
                let (metric, label) =
                    inner.and_then(|q| q.rsplit_once(", ")).expect("label_values");
                Variable {
                    name: text(&variable["name"]),
                    metric: metric.to_owned(),
                    label: label.to_owned(),
                }
            })
            .collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn panel(json: Value) -> Panel {
    let targets = json["targets"].as_array().cloned().unwrap_or_default();
    let queries = targets
        .iter()
        .map(|target| Query { expr: text(&target["expr"]), instant: target["instant"] == true })
        .collect();
    Panel { title: text(&json["title"]), json, queries }
}
