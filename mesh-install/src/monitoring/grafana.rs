//! Dashboards as Grafana imports them. What is in them is said in `dashboards.rs`; here is only how Grafana writes it.

use serde_json::{Value, json};

/// Grafana's grid is so wide.
const WIDTH: usize = 24;
/// The version of Grafana's schema (11.0) that is written; newer ones migrate it.
const SCHEMA: u32 = 39;

/// A page.
#[derive(Clone, Copy, Debug)]
pub struct Dashboard {
    /// In the address of the page, and the file's name.
    pub uid: &'static str,
    pub title: &'static str,
    pub about: &'static str,
    pub variables: &'static [Variable],
    pub rows: &'static [Row],
}

/// What is chosen above the page: the values of a label of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    pub name: &'static str,
    pub title: &'static str,
    /// As `label_values` takes it.
    pub metric: &'static str,
    pub label: &'static str,
}

#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub title: &'static str,
    pub panels: &'static [Panel],
}

#[derive(Clone, Copy, Debug)]
pub struct Panel {
    pub title: &'static str,
    /// What it shows, where the title does not say it; may be empty.
    pub about: &'static str,
    pub kind: Kind,
    /// As Grafana names units.
    pub unit: &'static str,
    /// Legend and expression.
    pub queries: &'static [(&'static str, &'static str)],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A curve each.
    Graph,
    /// One number now.
    Number,
    /// A row for each set of labels, now.
    Table,
}

impl Kind {
    /// Of [`WIDTH`], and the height.
    fn size(self) -> (usize, usize) {
        match self {
            Self::Number => (4, 4),
            Self::Graph => (12, 8),
            Self::Table => (24, 9),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Graph => "timeseries",
            Self::Number => "stat",
            Self::Table => "table",
        }
    }
}

impl Dashboard {
    /// Every expression.
    pub fn expressions(&self) -> impl Iterator<Item = &'static str> {
        let panels = self.rows.iter().flat_map(|row| row.panels);
        panels.flat_map(|panel| panel.queries).map(|(_, expression)| *expression)
    }

    /// As a file.
    pub fn render(&self) -> Value {
        let Self { uid, title, about, variables, rows } = self;
        let mut panels = Vec::new();
        let mut top = 0;
        for Row { title, panels: in_row } in *rows {
            let id = panels.len() + 1;
            let place = json!({ "x": 0, "y": top, "w": WIDTH, "h": 1 });
            panels.push(json!({
                "id": id, "type": "row", "title": title, "collapsed": false, "gridPos": place, "panels": [],
            }));
            top += 1;
            let (mut left, mut height) = (0, 0);
            for panel in *in_row {
                let (wide, high) = panel.kind.size();
                if left + wide > WIDTH {
                    (left, top, height) = (0, top + height, 0);
                }
                let id = panels.len() + 1;
                panels.push(panel.render(id, &json!({ "x": left, "y": top, "w": wide, "h": high })));
                (left, height) = (left + wide, height.max(high));
            }
            top += height;
        }
        json!({
            "uid": uid,
            "title": title,
            "description": about,
            "tags": ["nodemesh"],
            "schemaVersion": SCHEMA,
            "editable": true,
            "graphTooltip": 1,
            "refresh": "15s",
            "time": { "from": "now-30m", "to": "now" },
            "timezone": "browser",
            "links": [{ "type": "dashboards", "title": "Mesh", "tags": ["nodemesh"], "keepTime": true }],
            "templating": { "list": templating(variables) },
            "panels": panels,
        })
    }
}

fn templating(variables: &[Variable]) -> Vec<Value> {
    let source = json!({ "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus" });
    let chosen = variables.iter().map(|Variable { name, title, metric, label }| {
        let query = format!("label_values({metric}, {label})");
        json!({
            "name": name,
            "label": title,
            "type": "query",
            "datasource": datasource(),
            "definition": query,
            "query": { "query": query, "refId": "Variable" },
            "refresh": 2,
            "sort": 1,
            "multi": true,
            "includeAll": true,
            // An empty label too: a client without a name is a client.
            "allValue": ".*",
            "current": { "selected": true, "text": ["All"], "value": ["$__all"] },
        })
    });
    [source].into_iter().chain(chosen).collect()
}

fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

impl Panel {
    fn render(&self, id: usize, place: &Value) -> Value {
        let Self { title, about, kind, unit, queries } = self;
        let targets = queries.iter().zip('A'..='Z').map(|((legend, expression), letter)| {
            let mut target = json!({
                "refId": letter.to_string(),
                "datasource": datasource(),
                "expr": expression.split_whitespace().collect::<Vec<_>>().join(" "),
                "legendFormat": legend,
            });
            if *kind != Kind::Graph {
                target["instant"] = true.into();
            }
            if *kind == Kind::Table {
                target["format"] = "table".into();
            }
            target
        });
        let mut panel = json!({
            "id": id,
            "type": kind.name(),
            "title": title,
            "description": about,
            "datasource": datasource(),
            "gridPos": place,
            "targets": targets.collect::<Vec<_>>(),
            "fieldConfig": { "defaults": { "unit": unit }, "overrides": [] },
            "options": match kind {
                Kind::Graph => json!({
                    "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true },
                    "tooltip": { "mode": "multi", "sort": "desc" },
                }),
                Kind::Number => json!({
                    "reduceOptions": { "calcs": ["lastNotNull"] },
                    "colorMode": "value",
                    "graphMode": "none",
                }),
                Kind::Table => json!({ "showHeader": true }),
            },
        });
        if *kind == Kind::Table {
            // Of several queries one table, with a column of values each.
            panel["transformations"] = json!([
                { "id": "merge", "options": {} },
                { "id": "organize", "options": { "excludeByName": { "Time": true } } },
            ]);
        }
        panel
    }
}
