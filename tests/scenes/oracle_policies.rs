//! Random PeerAuthentication and AuthorizationPolicy objects, as a user might write them. The values are few, so that
//! conditions meet the pods of the scene.

use serde_json::{Map, Value, json};

use crate::dice::Dice;

pub const ROOT: &str = "istio-system";
pub const PORTS: [u16; 8] = [7000, 7001, 7002, 7070, 8080, 8081, 9000, 20_000];

/// Whose objects they are.
const OWNERS: [&str; 5] = ["shop", "shop", "market", "market", ROOT];
const PRINCIPALS: [&str; 14] = [
    "cluster.local/ns/shop/sa/cart",
    "cluster.local/ns/shop/sa/crawler",
    "cluster.local/ns/market/sa/cart",
    "cluster.local/ns/market/sa/stranger",
    "cluster.local/ns/shop/*",
    "cluster.local/ns/m*",
    "cluster.local/ns/shop/sa/c*",
    "cluster*",
    "*/sa/cart",
    "*art",
    "*er",
    "*",
    "other.domain/ns/shop/sa/cart",
    "cluster.local/ns/shop/sa/car",
];
const NAMESPACES: [&str; 9] = ["shop", "market", "legacy", "sho", "s*", "mark*", "*op", "*t", "*"];
const ACCOUNTS: [&str; 6] = ["cart", "crawler", "shop/cart", "market/cart", "market/stranger", "shop/stranger"];

/// The objects of one round. `addresses` are those of the pods, IPv4 and IPv6.
pub fn objects(dice: &mut Dice, addresses: &[String]) -> Vec<Value> {
    let mut all = Vec::new();
    for number in 0..dice.roll(4) {
        all.push(peer_authentication(dice, number));
    }
    for number in 0..dice.roll(5) {
        all.push(Writer { dice: &mut *dice, addresses }.authorization(number));
    }
    // It is about nobody here.
    let metadata = json!({ "name": "everybody", "namespace": "elsewhere" });
    all.push(object("AuthorizationPolicy", &metadata, &json!({ "action": "DENY", "rules": [{}] })));
    all
}

fn object(kind: &str, metadata: &Value, spec: &Value) -> Value {
    json!({ "apiVersion": "security.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec })
}

fn namespace(dice: &mut Dice) -> &'static str {
    dice.pick::<&str>(&OWNERS)
}

/// By a label that one server has, by two of which none has both, or by none.
fn selector(dice: &mut Dice) -> Value {
    let app = *dice.pick(&["web", "db", "api", "web", "db", "api", "absent"]);
    let labels = if dice.chance(5) { json!({ "app": app, "tier": "none" }) } else { json!({ "app": app }) };
    json!({ "matchLabels": labels })
}

fn peer_authentication(dice: &mut Dice, number: u64) -> Value {
    let mode = |dice: &mut Dice| json!({ "mode": dice.pick(&["STRICT", "STRICT", "PERMISSIVE", "DISABLE", "UNSET"]) });
    let mut spec = Map::new();
    if dice.chance(90) {
        spec.insert("mtls".into(), mode(dice));
    }
    if dice.chance(50) {
        spec.insert("selector".into(), selector(dice));
        let ports: Map<String, Value> =
            (0..dice.roll(4)).map(|_| (dice.pick(&PORTS).to_string(), mode(dice))).collect();
        if !ports.is_empty() {
            spec.insert("portLevelMtls".into(), ports.into());
        }
    }
    // The oldest wins; of one age the first by name.
    let created = format!("2024-0{}-01T00:00:00Z", 1 + dice.roll(3));
    let name = format!("{}{number}", dice.pick(&["a", "b"]));
    let metadata = json!({ "name": name, "namespace": namespace(dice), "creationTimestamp": created });
    object("PeerAuthentication", &metadata, &spec.into())
}

struct Writer<'a> {
    dice: &'a mut Dice,
    addresses: &'a [String],
}

impl Writer<'_> {
    fn authorization(&mut self, number: u64) -> Value {
        let action = *self.dice.pick(&["ALLOW", "ALLOW", "ALLOW", "ALLOW", "DENY", "DENY", "DENY", "AUDIT"]);
        let mut spec = Map::new();
        if action != "ALLOW" || self.dice.chance(80) {
            spec.insert("action".into(), action.into());
        }
        if self.dice.chance(50) {
            spec.insert("selector".into(), selector(self.dice));
        }
        // An ALLOW without rules permits nobody, which would leave little to ask.
        let most = if self.dice.chance(8) { 0 } else { 1 + self.dice.roll(4) };
        if most > 0 || self.dice.chance(50) {
            spec.insert("rules".into(), (0..most).map(|_| self.rule()).collect());
        }
        let namespace = namespace(self.dice);
        let mut metadata = json!({ "name": format!("p{number}"), "namespace": namespace });
        if self.dice.chance(12) {
            let dry = *self.dice.pick(&["true", "true", "false"]);
            metadata["annotations"] = json!({ "istio.io/dry-run": dry });
        }
        object("AuthorizationPolicy", &metadata, &spec.into())
    }

    /// Sources, operations and conditions, each of which may be absent or an empty list.
    fn rule(&mut self) -> Value {
        let mut rule = Map::new();
        let [from, to, when] = [70, 40, 35].map(|percent| {
            let given = self.dice.chance(percent);
            let empty = self.dice.chance(4);
            (given || empty).then(|| if given { 1 + self.dice.roll(2) } else { 0 })
        });
        if let Some(count) = from {
            let sources = (0..count).map(|_| json!({ "source": self.source() }));
            rule.insert("from".into(), sources.collect());
        }
        if let Some(count) = to {
            let operations = (0..count).map(|_| json!({ "operation": self.operation() }));
            rule.insert("to".into(), operations.collect());
        }
        if let Some(count) = when {
            rule.insert("when".into(), (0..count).map(|_| self.condition()).collect());
        }
        rule.into()
    }

    fn source(&mut self) -> Value {
        let fields = [
            "principals",
            "namespaces",
            "serviceAccounts",
            "ipBlocks",
            "notPrincipals",
            "notNamespaces",
            "notServiceAccounts",
            "notIpBlocks",
        ];
        let mut source = Map::new();
        for _ in 0..*self.dice.pick(&[1, 1, 1, 2, 2, 3]) {
            let field = *self.dice.pick(&fields);
            let values = self.values(field);
            source.insert(field.to_owned(), values);
        }
        if self.dice.chance(2) {
            source.insert("requestPrincipals".into(), json!(["*"]));
        }
        source.into()
    }

    fn operation(&mut self) -> Value {
        let mut operation = Map::new();
        let field = *self.dice.pick(&["ports", "ports", "notPorts"]);
        let values = self.values(field);
        operation.insert(field.to_owned(), values);
        if self.dice.chance(15) {
            let values = self.values("notPorts");
            operation.insert("notPorts".into(), values);
        }
        if self.dice.chance(4) {
            operation.insert("methods".into(), json!(["GET"]));
        }
        operation.into()
    }

    fn condition(&mut self) -> Value {
        let keys = [
            "source.ip",
            "source.namespace",
            "source.principal",
            "source.serviceAccount",
            "destination.ip",
            "destination.port",
        ];
        let key = *self.dice.pick(&keys);
        let mut condition = json!({ "key": key });
        let (yes, no) = *self.dice.pick(&[(true, false), (true, false), (false, true), (true, true)]);
        for (field, given) in [("values", yes), ("notValues", no)] {
            if given {
                condition[field] = self.values(key);
            }
        }
        condition
    }

    fn values(&mut self, field: &str) -> Value {
        let count = *self.dice.pick(&[1, 1, 2, 3]);
        (0..count).map(|_| Value::from(self.value(field))).collect()
    }

    fn value(&mut self, field: &str) -> String {
        match field {
            "principals" | "notPrincipals" | "source.principal" => (*self.dice.pick(&PRINCIPALS)).to_owned(),
            "namespaces" | "notNamespaces" | "source.namespace" => (*self.dice.pick(&NAMESPACES)).to_owned(),
            "serviceAccounts" | "notServiceAccounts" | "source.serviceAccount" => {
                (*self.dice.pick(&ACCOUNTS)).to_owned()
            }
            "ports" | "notPorts" | "destination.port" => self.dice.pick(&PORTS).to_string(),
            _ => self.network(),
        }
    }

    /// An address, a network around it, everything, or IPv4 in the other way to write it.
    fn network(&mut self) -> String {
        let address = self.dice.pick(self.addresses).clone();
        let is_v4 = !address.contains(':');
        match self.dice.roll(10) {
            0..=3 => address,
            4 | 5 => format!("{address}/{}", if is_v4 { 32 - self.dice.roll(4) } else { 128 - self.dice.roll(4) }),
            6 => format!("{address}/{}", if is_v4 { 24 } else { 64 }),
            7 => (*self.dice.pick(&["0.0.0.0/0", "::/0"])).to_owned(),
            8 if is_v4 => format!("::ffff:{address}/{}", 128 - self.dice.roll(4)),
            8 => "2001:db8:ffff::/48".to_owned(),
            _ => "192.0.2.0/24".to_owned(),
        }
    }
}
