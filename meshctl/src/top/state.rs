//! What `meshctl top` shows: the rows that were told last, in which order, which of them, from where on.

use std::{cmp::Ordering, time::Duration};

use crate::stat::{
    By,
    sum::{Key, Sum},
};

#[derive(Debug)]
pub struct State {
    pub by: By,
    pub namespace: String,
    pub window: Duration,
    pub sort: Sort,
    /// Rows without it in their names are left out.
    pub filter: String,
    /// The filter is being typed.
    pub typing: bool,
    pub paused: bool,
    /// The first row that is shown, of those that are left.
    pub first: usize,
    /// Something was told.
    pub heard: bool,
    /// What went wrong with the last question.
    pub trouble: Option<String>,
    rows: Vec<(Key, Sum)>,
}

/// What rows are in order of; the most first, and of success the least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    #[default]
    Requests,
    Success,
    P99,
    Connections,
    Refused,
    Bytes,
    Name,
}

impl Sort {
    const ALL: [Self; 7] =
        [Self::Requests, Self::Success, Self::P99, Self::Connections, Self::Refused, Self::Bytes, Self::Name];

    pub fn next(self) -> Self {
        let place = Self::ALL.iter().position(|sort| *sort == self).unwrap_or_default();
        Self::ALL[(place + 1) % Self::ALL.len()]
    }

    /// The header of its column; `None`: the first.
    pub fn column(self) -> Option<&'static str> {
        Some(match self {
            Self::Requests => "REQ/S",
            Self::Success => "SUCCESS",
            Self::P99 => "P99",
            Self::Connections => "CONN/S",
            Self::Refused => "REFUSED",
            Self::Bytes => "BYTES/S",
            Self::Name => return None,
        })
    }

    fn compare(self, a: &Sum, b: &Sum) -> Ordering {
        let most = |of: fn(&Sum) -> f64| of(b).total_cmp(&of(a));
        match self {
            Self::Requests => most(Sum::requests_per_second).then_with(|| Self::Connections.compare(a, b)),
            // Without any it is as good as can be.
            Self::Success => a.success().unwrap_or(2.0).total_cmp(&b.success().unwrap_or(2.0)),
            Self::P99 => b.quantile(0.99).cmp(&a.quantile(0.99)),
            Self::Connections => most(Sum::connections_per_second),
            Self::Refused => (b.refused() + b.failed()).cmp(&(a.refused() + a.failed())),
            Self::Bytes => most(Sum::bytes_per_second),
            Self::Name => Ordering::Equal,
        }
    }
}

impl State {
    pub fn new(by: By, namespace: String, window: Duration) -> Self {
        Self {
            by,
            namespace,
            window,
            sort: Sort::default(),
            filter: String::new(),
            typing: false,
            paused: false,
            first: 0,
            heard: false,
            trouble: None,
            rows: Vec::new(),
        }
    }

    /// An answer; one to a question about something else is not shown any more.
    pub fn told(&mut self, by: By, rows: Vec<(Key, Sum)>, trouble: Option<String>) {
        if by == self.by {
            // Nobody answered: what is shown is old, which the trouble says, and better than nothing.
            if trouble.is_none() || !rows.is_empty() {
                self.rows = rows;
            }
            (self.heard, self.trouble) = (true, trouble);
        }
    }

    pub fn choose(&mut self, by: By) {
        if by != self.by {
            (self.by, self.first, self.heard) = (by, 0, false);
            self.rows.clear();
        }
    }

    /// Those that are left, in order.
    pub fn rows(&self) -> Vec<&(Key, Sum)> {
        let filter = self.filter.to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&filter);
        let is_left = |key: &Key| {
            let Key { source, destination, service, route } = key;
            [source, destination, service, route].into_iter().any(|name| has(name))
        };
        let mut rows: Vec<_> = self.rows.iter().filter(|(key, _)| filter.is_empty() || is_left(key)).collect();
        rows.sort_by(|a, b| self.sort.compare(&a.1, &b.1).then_with(|| a.0.cmp(&b.0)));
        rows
    }

    pub fn scroll(&mut self, by: isize) {
        let last = self.rows().len().saturating_sub(1);
        self.first = self.first.saturating_add_signed(by).min(last);
    }
}
