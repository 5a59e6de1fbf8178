//! Reads deny.toml: the sections `[licenses]` and `[bans]`, as far as this project uses them.

use anyhow::{Context, Result, bail};

/// What deny.toml allows and forbids.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// SPDX names; `A WITH B` is one name.
    pub licences: Vec<String>,
    pub bans: Vec<Ban>,
}

/// A crate that only `wrappers` may depend on directly.
#[derive(Debug, PartialEq, Eq)]
pub struct Ban {
    pub name: String,
    pub wrappers: Vec<String>,
    pub reason: String,
}

impl Lists {
    /// # Errors
    /// A list is missing, not closed, or a ban has no crate.
    pub fn parse(text: &str) -> Result<Self> {
        let text = without_comments(text);
        let licences = strings(list(&text, "licenses", "allow")?)?;
        if licences.is_empty() {
            bail!("[licenses] allow: empty");
        }
        let bans = list(&text, "bans", "deny")?.split('}').filter(|entry| entry.contains('{')).map(ban);
        Ok(Self { licences, bans: bans.collect::<Result<_>>()? })
    }
}

/// `{ crate = "x", wrappers = ["a"], reason = "…"` without its closing brace.
fn ban(entry: &str) -> Result<Ban> {
    let value = |key: &str| {
        let (_, after) = entry.split_once(&format!("{key} ="))?;
        after.trim_start().strip_prefix('"')?.split('"').next().map(str::to_string)
    };
    let name = value("crate").context("[bans] deny: an entry without crate = \"…\"")?;
    let wrappers = match entry.split_once("wrappers = [") {
        None => Vec::new(),
        Some((_, after)) => {
            strings(after.split_once(']').with_context(|| format!("[bans] deny: {name}: wrappers: no ]"))?.0)?
        }
    };
    let reason = value("reason").with_context(|| format!("[bans] deny: {name}: say the reason"))?;
    Ok(Ban { name, wrappers, reason })
}

/// What stands between the brackets of `key = [ … ]` in `[section]`.
fn list<'a>(text: &'a str, section: &str, key: &str) -> Result<&'a str> {
    let missing = || format!("[{section}] {key}: missing");
    let (_, after) = text.split_once(&format!("[{section}]\n")).with_context(missing)?;
    let body = after.split("\n[").next().unwrap_or(after);
    let (_, after) = body.split_once(&format!("{key} = [")).with_context(missing)?;
    let mut depth = 1;
    let mut quoted = false;
    let end = after.find(|c| {
        match c {
            '"' => quoted = !quoted,
            '[' if !quoted => depth += 1,
            ']' if !quoted => depth -= 1,
            _ => {}
        }
        depth == 0
    });
    Ok(&after[..end.with_context(|| format!("[{section}] {key}: no ]"))?])
}

fn strings(list: &str) -> Result<Vec<String>> {
    let items = list.split(',').map(str::trim).filter(|item| !item.is_empty());
    items
        .map(|item| {
            let inner = item.strip_prefix('"').and_then(|item| item.strip_suffix('"'));
            inner.map(str::to_string).with_context(|| format!("`{item}` is not a string in quotes"))
        })
        .collect()
}

fn without_comments(text: &str) -> String {
    let code = |line: &str| {
        let mut quoted = false;
        let end = line.find(|c| {
            quoted ^= c == '"';
            c == '#' && !quoted
        });
        line[..end.unwrap_or(line.len())].trim_end().to_string()
    };
    text.lines().map(|line| code(line) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lists_are_read() {
        let lists = Lists::parse(
            "[graph]\nallow = 1\n[licenses]\n# why\nallow = [\n  \"MIT\", # a remark, with \"quotes\"\n  \"Apache-2.0\",\n]\n\
             [bans]\nmultiple-versions = \"allow\"\ndeny = [\n  { crate = \"aya\", wrappers = [\"a\", \"b\"], reason = \"r]\" },\n  \
             { crate = \"openssl\", reason = \"x\" },\n]\n[sources]\n",
        )
        .unwrap();
        let ban = |name: &str, wrappers: &[&str], reason: &str| Ban {
            name: name.into(),
            wrappers: wrappers.iter().map(ToString::to_string).collect(),
            reason: reason.into(),
        };
        assert_eq!(lists.licences, ["MIT", "Apache-2.0"]);
        assert_eq!(lists.bans, [ban("aya", &["a", "b"], "r]"), ban("openssl", &[], "x")]);
    }

    #[test]
    fn what_is_missing_is_named() {
        fn said(text: &str) -> String {
            format!("{:#}", Lists::parse(text).unwrap_err())
        }
        assert_eq!(said("[bans]\ndeny = []\n"), "[licenses] allow: missing");
        assert_eq!(said("[licenses]\nallow = [\"MIT\"\n"), "[licenses] allow: no ]");
        assert_eq!(said("[licenses]\nallow = []\n[bans]\ndeny = []\n"), "[licenses] allow: empty");
        let bans = |entry: &str| said(&format!("[licenses]\nallow = [\"MIT\"]\n[bans]\ndeny = [{entry}]\n"));
        assert_eq!(bans("{ crate = \"x\" }"), "[bans] deny: x: say the reason");
    }

    #[test]
    fn the_projects_own_list_is_readable() {
        let text = std::fs::read_to_string(crate::root().join("deny.toml")).unwrap();
        let lists = Lists::parse(&text).unwrap();
        assert!(lists.licences.contains(&"MIT".to_string()));
        assert!(lists.bans.iter().any(|ban| ban.name == "kube" && !ban.wrappers.contains(&"mesh-agent".to_string())));
    }
}
