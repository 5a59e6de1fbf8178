//! Bytes of `istio.security`.

use mesh_common::{
    model::{self, Policy, PolicyName},
    proto::security,
};

use super::golden;

#[test]
fn authorization_with_every_condition() {
    use security::{
        Action, Address, Authorization, Clause, Match, Rule, Scope, ServiceAccountMatch, StringMatch,
        string_match::MatchType,
    };
    let string = |match_type| vec![StringMatch { match_type: Some(match_type) }];
    let net = |address: &[u8], length| vec![Address { address: address.into(), length }];
    let account = |namespace: &str, account: &str| {
        vec![ServiceAccountMatch { namespace: namespace.into(), service_account: account.into() }]
    };
    golden(
        &[
            b"\x0a\x01p",                                // 1 name
            b"\x12\x01a",                                // 2 namespace
            b"\x18\x02",                                 // 3 scope WORKLOAD_SELECTOR
            b"\x20\x01",                                 // 4 action DENY
            b"\x2a\x56",                                 // 5 rules, one of 86 bytes:
            b"\x0a\x54",                                 //  1 clauses, one of 84 bytes:
            b"\x12\x52",                                 //   2 matches, one of 82 bytes:
            b"\x0a\x03\x0a\x01e",                        //    1 namespaces { 1 exact }
            b"\x12\x03\x12\x01p",                        //    2 not_namespaces { 2 prefix }
            b"\x1a\x03\x1a\x01s",                        //    3 principals { 3 suffix }
            b"\x22\x02\x22\x00",                         //    4 not_principals { 4 presence, an empty message }
            b"\x2a\x08\x0a\x04\x0a\x00\x00\x00\x10\x08", // 5 source_ips { 1 address, 2 length }: 10.0.0.0/8
            b"\x32\x06\x0a\x04\x00\x00\x00\x00",         //    6 not_source_ips: 0.0.0.0/0
            b"\x3a\x08\x0a\x04\x0b\x00\x00\x00\x10\x10", // 7 destination_ips: 11.0.0.0/16
            b"\x42\x08\x0a\x04\x0c\x00\x00\x01\x10\x20", // 8 not_destination_ips: 12.0.0.1/32
            b"\x4a\x03\x50\x90\x3f",                     //    9 destination_ports 80, 8080, packed
            b"\x52\x02\xbb\x03",                         //    10 not_destination_ports 443, packed
            b"\x5a\x06\x0a\x01n\x12\x01a",               //    11 service_accounts { 1 namespace, 2 serviceAccount }
            b"\x62\x06\x0a\x01m\x12\x01b",               //    12 not_service_accounts
            b"\x30\x01",                                 // 6 dry_run
        ],
        Authorization {
            name: "p".into(),
            namespace: "a".into(),
            scope: Scope::WorkloadSelector.into(),
            action: Action::Deny.into(),
            rules: vec![Rule {
                clauses: vec![Clause {
                    matches: vec![Match {
                        namespaces: string(MatchType::Exact("e".into())),
                        not_namespaces: string(MatchType::Prefix("p".into())),
                        principals: string(MatchType::Suffix("s".into())),
                        not_principals: string(MatchType::Presence(())),
                        source_ips: net(&[10, 0, 0, 0], 8),
                        not_source_ips: net(&[0, 0, 0, 0], 0),
                        destination_ips: net(&[11, 0, 0, 0], 16),
                        not_destination_ips: net(&[12, 0, 0, 1], 32),
                        destination_ports: vec![80, 8080],
                        not_destination_ports: vec![443],
                        service_accounts: account("n", "a"),
                        not_service_accounts: account("m", "b"),
                        http: Vec::new(),
                    }],
                }],
            }],
            dry_run: true,
            audit: false,
            http_rules: Vec::new(),
        },
    );
}

#[test]
fn audit_enforces_nothing_at_readers_that_do_not_know_it() {
    use security::{Action, Authorization};
    let policy = |name: &str, action| Policy {
        name: PolicyName { namespace: "a".into(), name: name.into() },
        scope: model::Scope::Namespace,
        action,
        rules: vec![],
        dry_run: false,
    };
    let audit = Authorization::from(&policy("p", model::Action::Audit));
    assert_eq!((audit.action(), audit.dry_run, audit.audit), (Action::Allow, true, true));
    let bytes = prost::Message::encode_to_vec(&audit);
    assert!(bytes.ends_with(b"\x30\x01\xc0\x3e\x01"), "field 1000: {bytes:x?}");
    let refused = |message: Authorization| Policy::try_from(message).expect_err("refused").field;
    assert_eq!(refused(Authorization { dry_run: false, ..audit.clone() }), "audit");
    assert_eq!(refused(Authorization { action: Action::Deny.into(), ..audit.clone() }), "audit");
    let strict = Authorization { name: Policy::STRICT_STATIC.into(), ..audit };
    assert_eq!(refused(strict.clone()), "dry_run");
    assert_eq!(refused(Authorization { audit: false, action: Action::Deny.into(), ..strict }), "dry_run");
}
