//! What is printed, and what is refused before any cluster is asked.

use super::*;

fn chosen(set: &[&str]) -> Chosen {
    Chosen { set: set.iter().map(|text| (*text).to_owned()).collect(), ..Chosen::default() }
}

#[test]
fn what_is_printed_is_what_is_applied() {
    let mut out = Vec::new();
    let values = chosen(&["namespace=mesh"]).over(Values::default()).unwrap();
    print(&values, &mut Screen::new(&mut out, Format::Json, false)).unwrap();
    let printed = String::from_utf8(out).unwrap();
    let printed = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
    assert_eq!(printed, owned(&values));
    // Beside the label and the values chosen it is mesh-install's.
    let mut same = printed;
    let map = same.pop().unwrap();
    assert_eq!(map["data"]["values.yaml"], "namespace: mesh\n");
    for object in &mut same {
        assert_eq!(object["metadata"]["labels"][MANAGED_BY_LABEL], MANAGER);
        object["metadata"]["labels"].as_object_mut().unwrap().remove(MANAGED_BY_LABEL);
    }
    assert_eq!(same, mesh_install::objects(&values));
}

#[test]
fn every_kind_that_is_applied_can_be_deleted_and_definitions_stay() {
    let mut values = Values::default();
    values.set("monitoring.enabled=true").unwrap();
    for object in owned(&values) {
        let kind = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        // With a definition all objects of its kind would go, which are users'.
        assert_eq!(KINDS.contains(&kind), kind.1 != "CustomResourceDefinition", "{kind:?}");
    }
}

#[test]
fn values_that_do_not_go_together_are_refused_before_anything_is_asked() {
    let said = chosen(&["agent.accessLog.otlp=true"]).over(Values::default()).unwrap_err();
    let expected = "agent.accessLog.otlp: needs agent.otlp.endpoint, where its lines go";
    assert_eq!((said.exit_code(), said.to_string().as_str()), (2, expected));
}

#[test]
fn files_come_before_single_values_and_say_where_they_are_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.yaml");
    fs::write(&file, "controller: {replicas: 3}\nnamespace: a\n").unwrap();
    let chosen = Chosen { values: vec![file.clone()], ..chosen(&["namespace=b"]) };
    let values = chosen.over(Values::default()).unwrap();
    assert_eq!((values.namespace(), values.changes().contains("replicas: 3")), ("b", true));
    fs::write(&file, "controller: {replica: 3}\n").unwrap();
    let said = chosen.over(Values::default()).unwrap_err().to_string();
    assert!(said.ends_with("mine.yaml: controller.replica: there is no such value"), "{said}");
}
