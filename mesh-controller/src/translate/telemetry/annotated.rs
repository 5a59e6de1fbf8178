//! `nodemesh.io/l7` and `nodemesh.io/access-log`, annotations or labels of a Pod or a Namespace: what shall be seen of
//! a pod's requests, and of what it has lines. A value that has no meaning counts as absent.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::status::Fault;

pub const L7: &str = "nodemesh.io/l7";
pub const ACCESS_LOG: &str = "nodemesh.io/access-log";

/// What one object says, or a pod and its namespace together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Said {
    pub l7: Option<L7Word>,
    pub access_log: Option<LogWord>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum L7Word {
    /// Requests are read wherever HTTP is spoken.
    Auto,
    /// Only where rules or policies ask for them, whatever else is said.
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogWord {
    Off,
    Errors,
    All,
}

impl Said {
    pub fn of(metadata: &ObjectMeta, faults: &mut Vec<Fault>) -> Self {
        // Of an annotation and a label that say different things the annotation holds.
        let places = [("annotations", &metadata.annotations), ("labels", &metadata.labels)];
        let mut said = Self::default();
        for (place, map) in places.into_iter().filter_map(|(place, map)| Some((place, map.as_ref()?))) {
            let mut wrong = |key: &str, value: &str, words: &str| {
                let value: String = value.chars().take(64).collect();
                let why = format!("`{value}` is none of {words}; it counts as absent");
                faults.push(Fault::new(format!("metadata.{place}[{key}]"), why));
            };
            let l7 = map.get(L7).and_then(|value| match value.as_str() {
                "auto" => Some(L7Word::Auto),
                "off" => Some(L7Word::Off),
                other => {
                    wrong(L7, other, "auto, off");
                    None
                }
            });
            let access_log = map.get(ACCESS_LOG).and_then(|value| match value.as_str() {
                "off" => Some(LogWord::Off),
                "errors" => Some(LogWord::Errors),
                "all" => Some(LogWord::All),
                other => {
                    wrong(ACCESS_LOG, other, "off, errors, all");
                    None
                }
            });
            said = said.or(Self { l7, access_log });
        }
        said
    }

    /// What this one says, and of what it does not say what the other one does.
    pub fn or(self, other: Self) -> Self {
        Self { l7: self.l7.or(other.l7), access_log: self.access_log.or(other.access_log) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(annotations: &[(&str, &str)], labels: &[(&str, &str)]) -> (Said, Vec<String>) {
        let map = |pairs: &[(&str, &str)]| Some(pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect());
        let metadata = ObjectMeta { annotations: map(annotations), labels: map(labels), ..ObjectMeta::default() };
        let mut faults = Vec::new();
        let said = Said::of(&metadata, &mut faults);
        (said, faults.into_iter().map(|fault| format!("{}: {}", fault.field, fault.why)).collect())
    }

    #[test]
    fn words_have_one_meaning_and_others_none() {
        let (found, faults) = said(&[(L7, "auto"), (ACCESS_LOG, "errors")], &[]);
        assert_eq!(found, Said { l7: Some(L7Word::Auto), access_log: Some(LogWord::Errors) });
        assert_eq!(faults, [] as [String; 0]);
        let (found, faults) = said(&[(L7, "Auto"), (ACCESS_LOG, "error")], &[(L7, "off"), (ACCESS_LOG, "all")]);
        assert_eq!(found, Said { l7: Some(L7Word::Off), access_log: Some(LogWord::All) }, "as if it were not there");
        assert_eq!(
            faults,
            [
                "metadata.annotations[nodemesh.io/l7]: `Auto` is none of auto, off; it counts as absent",
                "metadata.annotations[nodemesh.io/access-log]: `error` is none of off, errors, all; it counts as absent",
            ]
        );
        let (found, _) = said(&[(L7, "off")], &[(L7, "auto"), (ACCESS_LOG, "off")]);
        assert_eq!(found, Said { l7: Some(L7Word::Off), access_log: Some(LogWord::Off) });
    }

    #[test]
    fn the_pod_beats_its_namespace_word_by_word() {
        let pod = Said { l7: Some(L7Word::Off), access_log: None };
        let namespace = Said { l7: Some(L7Word::Auto), access_log: Some(LogWord::All) };
        assert_eq!(pod.or(namespace), Said { l7: Some(L7Word::Off), access_log: Some(LogWord::All) });
    }
}
