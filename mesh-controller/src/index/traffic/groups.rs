//! Groups of clients who are told the same of one service, and what that weighs.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::model::traffic::{Clients, For, Routes};

use super::budget::{Bound, Cost, GROUPS};

/// Bytes of a group beside its rules, and of each name in it beside its letters.
const FRAME: usize = 64;
const NAME: usize = 3;

/// Who is told the same.
#[derive(Debug)]
pub struct Group<'a> {
    /// `None`: everybody whom nobody names.
    pub namespaces: Option<BTreeSet<&'a str>>,
    /// Which of the Gateway's routes.
    pub first: Option<usize>,
    /// Candidates in the order in which they are asked.
    pub own: Vec<usize>,
    cost: Cost,
}

/// All groups, in which every client is once.
#[derive(Debug)]
pub struct Groups<'a> {
    groups: Vec<Group<'a>>,
    /// Where the namespaces are that somebody names.
    places: BTreeMap<&'a str, usize>,
    cost: Cost,
}

/// What comes to a group.
#[derive(Clone, Copy, Debug)]
pub enum Offered {
    Candidate(usize),
    /// In place of the Gateway's routes that were there.
    First(usize),
}

/// The groups that something is for. There is room for it.
#[derive(Debug)]
pub struct Offer<'a> {
    /// Those who have no names are for it whole.
    shares: BTreeMap<usize, BTreeSet<&'a str>>,
    cost: Cost,
    /// What all groups together weigh more with it.
    pub more: Cost,
}

impl<'a> Groups<'a> {
    /// Those whom the last of the Gateway's routes are for, and everybody else. What they weigh is looked at only if
    /// more may come.
    pub fn new(gateway: &'a [For<Routes>], weighs: bool) -> Self {
        let last = gateway.len().checked_sub(1);
        let group = |namespaces, first: Option<usize>| {
            let routes = first.filter(|_| weighs).map(|first| Cost::of(&gateway[first].value));
            Group { namespaces, first, own: Vec::new(), cost: routes.unwrap_or_default() }
        };
        let (mut groups, mut places) = (Vec::new(), BTreeMap::new());
        match gateway.last().map(|routes| &routes.clients) {
            Some(Clients::Namespaces(named)) => {
                groups.push(group(None, None));
                groups.push(group(Some(named.iter().map(String::as_str).collect()), last));
                places.extend(named.iter().map(|namespace| (namespace.as_str(), 1)));
            }
            Some(Clients::Everybody) | None => groups.push(group(None, last)),
        }
        let cost = groups.iter().fold(Cost::default(), |sum, group| sum + group.cost);
        Self { groups, places, cost }
    }

    /// # Errors
    /// If there is no room for something with this cost.
    pub fn offer(&self, clients: &'a Clients, cost: Cost) -> Result<Offer<'a>, Bound> {
        let mut shares: BTreeMap<usize, BTreeSet<&'a str>> = BTreeMap::new();
        match clients {
            Clients::Everybody => shares.extend((0..self.groups.len()).map(|place| (place, BTreeSet::new()))),
            Clients::Namespaces(named) => {
                for namespace in named {
                    let place = self.places.get(namespace.as_str()).copied().unwrap_or_default();
                    shares.entry(place).or_default().insert(namespace);
                }
            }
        }
        let mut more = Cost::default();
        let mut new = 0;
        for (place, share) in &shares {
            let group = &self.groups[*place];
            (group.cost + cost).within(Bound::List)?;
            let splits = group.splits(share);
            new += usize::from(splits);
            more = more + cost + if splits { group.cost + frame(share) } else { Cost::default() };
        }
        if self.groups.len() + new > GROUPS {
            return Err(Bound::Groups);
        }
        (self.cost + more).within(Bound::Service)?;
        Ok(Offer { shares, cost, more })
    }

    /// Takes it in.
    pub fn take(&mut self, what: Offered, Offer { shares, cost, more }: Offer<'a>) {
        for (place, share) in shares {
            let group = &mut self.groups[place];
            if !group.splits(&share) {
                group.add(what, cost);
                continue;
            }
            if let Some(known) = &mut group.namespaces {
                known.retain(|namespace| !share.contains(namespace));
            }
            let (first, own) = (group.first, group.own.clone());
            let mut new = Group { first, own, cost: group.cost + frame(&share), namespaces: None };
            new.add(what, cost);
            self.places.extend(share.iter().map(|namespace| (*namespace, self.groups.len())));
            new.namespaces = Some(share);
            self.groups.push(new);
        }
        self.cost = self.cost + more;
    }

    /// In an order that depends on what they are told alone; everybody comes last.
    pub fn settled(self) -> Vec<Group<'a>> {
        let mut groups = self.groups;
        groups
            .sort_by(|a, b| (a.namespaces.is_none(), a.first, &a.own).cmp(&(b.namespaces.is_none(), b.first, &b.own)));
        groups
    }
}

impl<'a> Group<'a> {
    /// Whether some of its clients go and some stay.
    fn splits(&self, share: &BTreeSet<&'a str>) -> bool {
        let whole = self.namespaces.as_ref().map_or(0, BTreeSet::len);
        !share.is_empty() && share.len() != whole
    }

    fn add(&mut self, what: Offered, cost: Cost) {
        match what {
            Offered::Candidate(number) => {
                let place = self.own.partition_point(|known| *known < number);
                self.own.insert(place, number);
            }
            Offered::First(number) => self.first = Some(number),
        }
        self.cost = self.cost + cost;
    }
}

fn frame(namespaces: &BTreeSet<&str>) -> Cost {
    let names: usize = namespaces.iter().map(|name| name.len() + NAME).sum();
    Cost { bytes: FRAME + names, ..Cost::default() }
}
