//! Where the controller tells on demand: what is asked for, once; what counts as its answer; what outlives streams.

use mesh_common::proto::{nodemesh, type_url};

use super::{
    discovery::{exchange, pod, pod_resource, resource, response, subscriptions},
    soon,
    world::{Mute, World},
};

#[tokio::test]
async fn what_is_asked_for_is_asked_by_name_and_again_on_a_new_stream_and_after_a_restart() {
    let mut world = World::new().await;
    let control = world.start(Mute);
    let mut stream = world.discovery().await;
    subscriptions(&mut stream).await;
    let on_demand = vec![resource(type_url::ON_DEMAND, "addresses", "1", &nodemesh::OnDemand {})];
    assert_eq!(exchange(&mut stream, response(type_url::ON_DEMAND, "1", on_demand, vec![])).await, None);
    let here = vec![pod_resource("1", pod("here", 1))];
    assert_eq!(exchange(&mut stream, response(type_url::ADDRESS, "2", here, vec![])).await, None);
    let snapshot = world.store.snapshot();
    let (there, nobody) = ([10, 0, 0, 2].into(), [192, 0, 2, 1].into());
    assert!(snapshot.must_ask(there) && !snapshot.must_ask([10, 0, 0, 1].into()));

    world.store.questions().ask(there);
    let question = stream.next().await;
    assert_eq!(question.resource_names_subscribe, ["/10.0.0.2"]);
    assert_eq!((question.type_url.as_str(), question.response_nonce.as_str()), (type_url::ADDRESS, ""));
    world.store.questions().ask(nobody);
    assert_eq!(stream.next().await.resource_names_subscribe, ["/192.0.2.1"]);
    // News of others is no answer.
    let other = vec![pod_resource("1", pod("other", 9))];
    assert_eq!(exchange(&mut stream, response(type_url::ADDRESS, "3", other, vec![])).await, None);
    assert!(!world.store.questions().ask(there) && !world.store.questions().ask(nobody));
    let answer = response(type_url::ADDRESS, "4", vec![pod_resource("1", pod("there", 2))], vec!["/192.0.2.1".into()]);
    assert_eq!(exchange(&mut stream, answer).await, None);
    assert!(world.store.questions().ask(there) && world.store.questions().ask(nobody));
    assert!(!world.store.snapshot().must_ask(there) && world.store.snapshot().must_ask(nobody));

    let again = |mut names: Vec<String>| {
        names.sort();
        assert_eq!(names, ["*", "/10.0.0.2", "/192.0.2.1"]);
    };
    let addresses = async |world: &mut World| {
        let mut stream = world.discovery().await;
        loop {
            let request = stream.next().await;
            if request.type_url == type_url::ADDRESS {
                break request;
            }
        }
    };
    drop(stream);
    let request = addresses(&mut world).await;
    again(request.resource_names_subscribe);
    assert_eq!(request.initial_resource_versions.len(), 3);

    world.shutdown.send_replace(true);
    soon("control ends", control.stopped()).await;
    world.store = Default::default();
    world.shutdown.send_replace(false);
    let _control = world.start(Mute);
    let snapshot = world.store.snapshot();
    assert!(snapshot.is_on_demand() && !snapshot.must_ask(there));
    assert!(world.store.questions().ask(nobody), "the answer is remembered");
    again(addresses(&mut world).await.resource_names_subscribe);
}
