//! Which resources of a response an agent has refused: the details of the error with which it answers. Each is one
//! `google.protobuf.StringValue` with a resource's name.

use prost::Message;
use prost_types::Any;

use super::rpc::Status;

const NAME: &str = "type.googleapis.com/google.protobuf.StringValue";

/// What says that these were refused.
pub fn details<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<Any> {
    let detail = |name: &str| Any { type_url: NAME.to_owned(), value: name.to_owned().encode_to_vec() };
    names.into_iter().map(detail).collect()
}

/// The names that an error says; none: it does not say which were refused.
pub fn names(error: &Status) -> Vec<String> {
    let own = error.details.iter().filter(|detail| detail.type_url == NAME);
    own.filter_map(|detail| String::decode(&*detail.value).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_were_written_and_nothing_else_is() {
        let mut details = details(["shop/a", ""]);
        details.push(Any { type_url: "type.googleapis.com/google.rpc.ErrorInfo".into(), value: b"\x0a\x01x".to_vec() });
        details.push(Any { type_url: NAME.into(), value: vec![0xff] });
        let error = Status { details, ..Status::default() };
        assert_eq!(names(&error), ["shop/a", ""]);
        assert!(names(&Status::default()).is_empty());
    }
}
