//! Probes of the language: what holds, what does not compile, what fails, what it costs.

use serde_json::json;

use super::authorizer::{Authorizer, Check, Decision};
use super::value::{Opaque, from_json, from_node};
use super::*;
use crate::structural::Structural;

fn schema() -> Structural {
    let schema = json!({
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "required": ["replicas"],
                "properties": {
                    "replicas": {"type": "integer"},
                    "ratio": {"type": "number"},
                    "name": {"type": "string", "maxLength": 20},
                    "port": {"x-kubernetes-int-or-string": true},
                    "a-b": {"type": "string"},
                    "namespace": {"type": "string"},
                    "since": {"type": "string", "format": "date-time"},
                    "day": {"type": "string", "format": "date"},
                    "wait": {"type": "string", "format": "duration"},
                    "blob": {"type": "string", "format": "byte"},
                    "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                    "anything": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    "ports": {
                        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                        "items": {"type": "object", "properties": {
                            "name": {"type": "string"}, "number": {"type": "integer"},
                        }},
                    },
                },
            },
        },
    });
    Structural::parse(api::GroupVersionKind::new("example.com", "v1", "Thing"), &schema).unwrap()
}

fn data() -> serde_json::Value {
    json!({
        "apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "x", "labels": {"a": "b"}},
        "spec": {
            "replicas": 3, "ratio": 2, "name": "héllo", "port": 80, "a-b": "dash", "namespace": "ns",
            "since": "2024-02-29T12:30:15.5Z", "day": "2024-01-01", "wait": "1h30m", "blob": "aGk=",
            "tags": ["a", "b"], "labels": {"k": "v", "a.b": "c"}, "anything": {"hidden": 1},
            "ports": [{"name": "a", "number": 1}, {"name": "b", "number": 2}],
        },
    })
}

fn scope(structural: &Structural) -> Scope {
    let declared = Declared::of(structural, "selfType").unwrap();
    let mut scope = Scope { binds: true, ..Scope::default() };
    for (name, kind) in [
        ("self", declared.kind().clone()),
        ("oldSelf", Type::optional(declared.kind().clone())),
        ("d", Type::Dyn),
        ("authorizer", Type::Opaque(AUTHORIZER)),
    ] {
        scope.variables.insert(name.to_owned(), kind);
    }
    scope
}

#[derive(Debug)]
struct OnlyGet;

impl Authorizer for OnlyGet {
    fn decision(&self, check: &Check) -> Option<Decision> {
        let allowed = check.verb == "get";
        (check.verb != "later").then(|| Decision {
            allowed,
            reason: "because".to_owned(),
            error: String::new(),
        })
    }
}

fn run<T>(source: &str, then: impl FnOnce(Outcome<'_>) -> T) -> Result<T, CompileError> {
    let (structural, data) = (schema(), data());
    let program = compile(source, &scope(&structural))?;
    let dynamic = json!({"i": 1, "f": 1.5, "s": "x", "l": [1, 2], "m": {"k": 1}, "n": null});
    let own = from_node(&data, Some(structural.root())).unwrap();
    let check = Value::Opaque(Opaque::Check(std::rc::Rc::default(), &OnlyGet));
    let bindings = Bindings(vec![
        ("oldSelf", Value::some(own.clone())),
        ("self", own),
        ("d", from_json(&dynamic)),
        ("authorizer", check),
    ]);
    Ok(then(program.evaluate(&bindings, CALL_LIMIT)))
}

#[track_caller]
fn holds(source: &str) {
    let outcome = run(source, |outcome| format!("{:?}", outcome.value));
    assert_eq!(outcome.as_deref(), Ok("Ok(Bool(true))"), "{source}");
}

#[test]
fn large_lists_of_type_set_and_map_are_compared_and_added_to() {
    let list = |kind: &str, items: serde_json::Value| {
        json!({"type": "array", "x-kubernetes-list-type": kind, "x-kubernetes-list-map-keys":
            if kind == "map" { json!(["name", "port"]) } else { json!([]) }, "items": items})
    };
    let entry = json!({"type": "object", "properties": {
        "name": {"type": "string"}, "port": {"type": "integer"}, "note": {"type": "string"},
    }});
    let pair = json!({"type": "array", "x-kubernetes-list-type": "atomic", "items": {"type": "integer"}});
    let atom = json!({"type": "object", "x-kubernetes-map-type": "atomic", "properties": {
        "name": {"type": "string"}, "port": {"type": "integer"}, "note": {"type": "string"},
    }});
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "numbers": list("set", json!({"type": "integer"})),
        "ratios": list("set", json!({"type": "number"})),
        "texts": list("set", json!({"type": "string"})),
        "pairs": list("set", pair),
        "atoms": list("set", atom),
        "entries": list("map", entry),
    }}}});
    let structural =
        Structural::parse(api::GroupVersionKind::new("example.com", "v1", "Thing"), &schema).unwrap();
    let number = |n: i64| json!(n);
    let text = |n: i64| json!(n.to_string());
    let pair = |n: i64| json!([n / 2, n % 2]);
    let entry = |n: i64| json!({"name": format!("n{}", n / 2), "port": n % 2, "note": "x"});
    // Each element of the second list falls together with one of the first, as numbers of all types do.
    let make: [(&str, i64, &dyn Fn(i64) -> serde_json::Value, &str); 6] = [
        ("numbers", 50_000, &number, "[dyn(1.0), dyn(2u), dyn(-0.0)]"),
        ("texts", 10_000, &text, "['1', '2']"),
        ("ratios", 5_000, &number, "[dyn(1), dyn(2u)]"),
        ("pairs", 5_000, &pair, "[[0, 1], [1, 0]]"),
        ("atoms", 5_000, &entry, "[d.spec.atoms[0]]"),
        ("entries", 10_000, &entry, "[d.spec.entries[1]]"),
    ];
    for (field, size, make, known) in make {
        let thing = |elements: Vec<serde_json::Value>| json!({"spec": {field: elements}});
        let old = thing((0..size).map(make).collect());
        let new = thing((0..size).rev().map(make).collect());
        let other = thing((1..=size).map(make).collect());
        let value = |data| from_node(data, Some(structural.root())).unwrap();
        let bindings = Bindings(vec![
            ("self", value(&new)),
            ("oldSelf", Value::some(value(&old))),
            ("d", value(&other)),
        ]);
        let (new, old) = (format!("self.spec.{field}"), format!("oldSelf.value().spec.{field}"));
        for source in [
            format!("{new} == {old} && {new} != d.spec.{field}"),
            format!("({new} + {old}) == {old} && size({new} + d.spec.{field}) == {}", size + 1),
            format!("size({new} + {known}) == {size}"),
        ] {
            let program = compile(&source, &scope(&structural)).unwrap();
            let value = program.evaluate(&bindings, CALL_LIMIT).value;
            assert!(matches!(value, Ok(Value::Bool(true))), "{source}: {value:?}");
        }
    }
}

#[test]
fn arithmetic_and_comparison() {
    for source in [
        "1 + 2 * 3 == 7 && (1 + 2) * 3 == 9 && 7 / 2 == 3 && -7 % 3 == -1",
        "1.5 + 2.0 == 3.5 && 2u + 3u == 5u && -9223372036854775808 < 0 && 0x10 == 16",
        "1 < 2.5 && 2.5 > 1u && 1u <= 1 && dyn(1) == dyn(1.0) && dyn(1u) == 1",
        "!(dyn(1) == 'a') && dyn('a') != 1 && [1, 2] == [1, 2] && {'a': 1} == {'a': 1}",
        "'a' < 'b' && b'a' < b'b' && true > false && 'a' + 'b' == 'ab' && [1] + [2] == [1, 2]",
        "1 in [1, 2] && !('x' in ['y']) && 'a' in {'a': 1} && size('héllo') == 5 && 'héllo'.size() == 5",
        "size([1, 2]) == 2 && size({'a': 1}) == 1 && size(b'abc') == 3",
        "true ? 1 == 1 : false, 1 == 1".split(',').next().unwrap(),
        "type(1) == int && type('') == string && type([]) == list && type({}) == map && type(null) == null_type",
        "type(1) != uint && type(type(1)) == type && type(d.f) == double && type(d.i) == int",
        "int('42') == 42 && int(2.9) == 2 && uint('3') == 3u && double('1.5') == 1.5 && string(1.0) == '1'",
        "string(true) == 'true' && string(b'hi') == 'hi' && bytes('hi') == b'hi' && bool('true') && int(3u) == 3",
        "string(1e30) == '1e+30' && string(0.5) == '0.5' && string(123u) == '123' && double(3) == 3.0",
        "r'\\d' == '\\\\d' && '\\u00e9' == 'é' && \"\"\"a'b\"\"\" == \"a'b\" && b'\\xff'.size() == 1",
        "false && (1 / 0 == 1) == false || true",
        "(1 / 0 == 1) || true",
        "!(false && 1 / 0 == 1)",
        "d.f > 1 && d.i == 1 && d.n == null && d.m.k == 1 && d['m']['k'] == 1 && d.l[1] == 2",
    ] {
        holds(source);
    }
}

#[test]
fn what_upstreams_environments_do_not_have_is_not_understood() {
    let plain = Scope::default();
    for (source, mistake) in [
        ("cel.bind(x, 2, x * x) == 4", "undeclared reference to 'cel'"),
        ("math.greatest(1, 2) == 2", "undeclared reference to 'math'"),
        ("math.abs(-1) == 1", "undeclared reference to 'math'"),
        ("'abc'.reverse() == 'cba'", "found no matching overload for 'reverse'"),
        ("base64.encode(b'a') == ''", "undeclared reference to 'base64'"),
    ] {
        let error = compile(source, &plain).unwrap_err().to_string();
        assert!(error.contains(mistake), "{source}: {error}");
    }
    // Macros that are made of a binding are there all the same.
    for source in ["[2, 1].sortBy(x, x) == [1, 2]", "optional.of(2).optMap(x, x * 2).value() == 4"] {
        compile(source, &plain).unwrap();
    }
    compile("cel.bind(x, 2, x * x) == 4", &Scope { binds: true, ..Scope::default() }).unwrap();
}

#[test]
fn macros() {
    for source in [
        "has(self.spec.name) && !has(d.zzz) && has(d.m.k)",
        "[1, 2, 3].all(x, x > 0) && ![1, 2].all(x, x > 1) && [].all(x, x > 0)",
        "[1, 2, 3].exists(x, x == 2) && [1, 2].exists_one(x, x == 2) && ![2, 2].exists_one(x, x == 2)",
        "[1, 2, 3].map(x, x * 2) == [2, 4, 6] && [1, 2, 3].map(x, x > 1, x * 2) == [4, 6]",
        "[1, 2, 3].filter(x, x % 2 == 1) == [1, 3] && {'a': 1}.all(k, k == 'a')",
        "[1, 2].map(x, [3, 4].map(y, x * y)) == [[3, 4], [6, 8]]",
        "[1, 0].exists(x, 1 / x == 1) && ![0, 1].all(x, 1 / x == 2)",
        "[5, 6].all(i, v, v == i + 5) && {'a': 1}.exists(k, v, k == 'a' && v == 1)",
        "[1, 1, 2].existsOne(i, v, v == 2) && [1, 2].transformList(i, v, i + v) == [1, 3]",
        "[1, 2, 3].transformList(i, v, i > 0, v) == [2, 3]",
        "{'a': 1}.transformMap(k, v, v + 1) == {'a': 2} && ['x'].transformMapEntry(i, v, {v: i}) == {'x': 0}",
        "[3, 1, 2].sortBy(x, -x) == [3, 2, 1] && ['bb', 'a'].sortBy(x, size(x)) == ['a', 'bb']",
        "[].sortBy(x, x) == []",
        "[[[1], [2]], [[3]]].flatten(2) == [1, 2, 3] && [[1], [2]].flatten() == [1, 2]",
        "[[1]].flatten(0) == [[1]]",
        "[1, 2].first().value() == 1 && [1, 2].last().value() == 2 && !([].first().hasValue())",
        "optional.unwrap([optional.of(1), optional.none(), optional.of(2)]) == [1, 2]",
        "[optional.of('a'), optional.none()].unwrapOpt() == ['a']",
        "cel.bind(x, 2, x * x) == 4 && cel.bind(x, [1, 2], x.all(y, y in x))",
        "optional.of(2).optMap(x, x * 2).value() == 4 && !optional.none().optMap(x, x).hasValue()",
        "optional.of(2).optFlatMap(x, optional.of(x)).orValue(0) == 2",
    ] {
        holds(source);
    }
}

#[test]
fn optionals() {
    for source in [
        "d.?m.?k.orValue(0) == 1 && d.?zzz.?k.orValue(5) == 5 && !d.?zzz.hasValue()",
        "d[?'zzz'].orValue('no') == 'no' && d.l[?0].value() == 1 && !d.l[?9].hasValue()",
        "optional.of(1) == optional.of(1) && optional.none().or(optional.of(2)).value() == 2",
        "!optional.ofNonZeroValue('').hasValue() && optional.ofNonZeroValue('x').hasValue()",
        "{?'a': optional.none(), 'b': 1} == {'b': 1} && [?optional.of(1), ?optional.none()] == [1]",
        "oldSelf.hasValue() && oldSelf.spec.replicas.value() == 3 && oldSelf.?spec.?name.orValue('') == 'héllo'",
        "oldSelf.value().spec.replicas == self.spec.replicas && type(optional.of(1)) == optional_type",
        "(true ?.5 : 1.0) == 0.5 && (d.?zzz.hasValue()?1:2) == 2",
    ] {
        holds(source);
    }
}

#[test]
fn typed_objects() {
    for source in [
        "self.spec.replicas == 3 && self.spec.ratio == 2.0 && type(self.spec.ratio) == double",
        "self.spec.port == 80 && type(self.spec.port) == int && self.spec.a__dash__b == 'dash'",
        "self.spec.__namespace__ == 'ns' && self.metadata.name == 'x' && self.kind == 'Thing'",
        "self.spec.since.getFullYear() == 2024 && self.spec.since.getMonth() == 1 && self.spec.since.getDate() == 29",
        "self.spec.since > timestamp('2024-01-01T00:00:00Z') && self.spec.day.getDayOfMonth() == 0",
        "self.spec.wait == duration('90m') && self.spec.wait.getMinutes() == 90 && self.spec.blob == b'hi'",
        "self.spec.tags == ['b', 'a'] && self.spec.labels['a.b'] == 'c' && self.spec.labels.k == 'v'",
        "self.spec.labels.all(k, self.spec.labels[k].size() == 1) && 'k' in self.spec.labels",
        "self.spec.ports.exists(p, p.name == 'b' && p.number == 2) && self.spec.ports[0].name == 'a'",
        "self.spec.tags + ['b', 'c'] == ['c', 'a', 'b'] && self.spec.tags + ['c'] + ['c', 'a'] == ['c', 'b', 'a']",
        "self.spec.tags != ['a', 'a'] && self.spec.tags != ['a', 'b', 'b'] && ['b', 'a'] != self.spec.tags",
        "self.spec.ports + [self.spec.ports[0]] == self.spec.ports.reverse() && self.spec.ports == self.spec.ports.reverse()",
        "(self.spec.ports + self.spec.ports) + self.spec.ports == self.spec.ports && self.spec.ports != [self.spec.ports[0], self.spec.ports[0]]",
        "(self.spec.tags + ['c'])[2] == 'c' && (self.spec.tags + ['c']).map(t, t + '!') == ['a!', 'b!', 'c!']",
        "self.spec.tags + ['b', 'c'] == ['a', 'b', 'c'] && size(self.spec.ports + [self.spec.ports[1]]) == 2",
        "!has(self.metadata.generateName) && has(self.spec.labels.k) && !has(self.spec.labels.zzz)",
    ] {
        holds(source);
    }
}

#[test]
fn libraries() {
    for source in [
        "'hello'.startsWith('he') && 'hello'.endsWith('lo') && 'hello'.contains('ell') && 'abc'.matches('^a.c$')",
        "'hello'.charAt(1) == 'e' && 'hello'.indexOf('l') == 2 && 'hello'.lastIndexOf('l') == 3 && 'a'.indexOf('z') == -1",
        "'aXbX'.replace('X', '-') == 'a-b-' && 'aXbX'.replace('X', '-', 1) == 'a-bX' && ' a '.trim() == 'a'",
        "'a,b,c'.split(',') == ['a', 'b', 'c'] && 'a,b,c'.split(',', 2) == ['a', 'b,c'] && 'ab'.split('') == ['a', 'b']",
        "'hello'.substring(1) == 'ello' && 'hello'.substring(1, 3) == 'el' && ['a', 'b'].join('-') == 'a-b'",
        "'aB'.lowerAscii() == 'ab' && 'aB'.upperAscii() == 'AB' && strings.quote('a\"') == '\"a\\\\\"\"'",
        "'%s %d %.2f %x %b'.format(['a', dyn(1), 1.5, 255, 5]) == 'a 1 1.50 ff 101' && '%s'.format([[1, 2]]) == '[1, 2]'",
        "'%e'.format([1234.5]) == '1.234500e+03' && '100%%'.format([]) == '100%'",
        "'abc123'.find('[0-9]+') == '123' && 'a1b2'.findAll('[0-9]') == ['1', '2'] && 'a1b2'.findAll('[0-9]', 1) == ['1']",
        "[1, 2, 3].isSorted() && [1, 2].sum() == 3 && [1.5].sum() == 1.5 && [3, 1].min() == 1 && ['a', 'b'].max() == 'b'",
        "[1, 2, 1].indexOf(1) == 0 && [1, 2, 1].lastIndexOf(1) == 2",
        "sets.contains([1, 2], [2]) && sets.equivalent([1, 2], [2, 1, 1]) && sets.intersects([1], [1, 2])",
        "url('https://a.b:80/p/q?x=1&x=2').getHost() == 'a.b:80' && url('https://a.b:80/p').getPort() == '80'",
        "url('https://a.b/p q').getEscapedPath() == '/p%20q' && url('/p?x=1&x=2').getQuery() == {'x': ['1', '2']}",
        "isURL('https://a') && !isURL('a b') && url('https://[::1]:80/').getHostname() == '::1'",
        "ip('10.0.0.1').family() == 4 && isIP('::1') && !isIP('300.1.1.1') && ip('127.0.0.1').isLoopback()",
        "ip.isCanonical('::1') && !ip.isCanonical('0:0::1') && ip('8.8.8.8').isGlobalUnicast()",
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16')",
        "cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8') && cidr('::/64').prefixLength() == 64 && isCIDR('::/0')",
        "string(ip('::1')) == '::1' && string(cidr('10.0.0.0/8')) == '10.0.0.0/8' && type(ip('::1')) == net.IP",
        "quantity('1.5Gi').isGreaterThan(quantity('1Gi')) && quantity('1k').asInteger() == 1000 && isQuantity('5m')",
        "quantity('500m').asApproximateFloat() == 0.5 && quantity('1').add(quantity('1')).compareTo(quantity('2')) == 0",
        "quantity('1').sub(2).sign() == -1 && !quantity('1500m').isInteger() && quantity('1000m') == quantity('1')",
        "semver('1.2.3').major() == 1 && semver('1.2.3-rc.1').isLessThan(semver('1.2.3')) && !isSemver('1.2')",
        "isSemver('v1.2', true) && semver('1.0.0+a').compareTo(semver('1.0.0+b')) == 0",
        "!format.dns1123Label().validate('abc').hasValue() && format.dns1123Label().validate('A_').hasValue()",
        "format.named('uuid').hasValue() && !format.named('zzz').hasValue() && !format.dns1035LabelPrefix().validate('a-').hasValue()",
        "jsonpatch.escapeKey('a/b~c') == 'a~1b~0c'",
        "authorizer.group('').resource('pods').namespace('a').check('get').allowed()",
        "!authorizer.path('/x').check('post').allowed() && authorizer.path('/x').check('get').reason() == 'because'",
        "authorizer.serviceAccount('ns', 'sa').group('apps').resource('x').subresource('s').name('n').fieldSelector('a=b').check('get').allowed()",
        "timestamp('2024-01-01T00:00:00Z') + duration('1h') == timestamp('2024-01-01T01:00:00Z')",
        "timestamp('2024-01-01T01:00:00Z') - timestamp('2024-01-01T00:00:00Z') == duration('3600s')",
        "timestamp('2024-01-01T00:00:00Z').getHours('+05:30') == 5 && string(duration('1m30.5s')) == '90.5s'",
        "int(timestamp('1970-01-01T00:00:10Z')) == 10 && string(timestamp(0)) == '1970-01-01T00:00:00Z'",
        "duration('-1.5h').getMinutes() == -90 && duration('1ms').getMilliseconds() == 1",
    ] {
        holds(source);
    }
}

#[test]
fn what_does_not_compile() {
    for (source, message) in [
        (
            "slef.spec",
            "ERROR: <input>:1:1: undeclared reference to 'slef' (in container '')\n | slef.spec\n | ^",
        ),
        ("self.spec.nope", "ERROR: <input>:1:10: undefined field 'nope'\n | self.spec.nope\n | .........^"),
        (
            "self.spec.replicas == 'a'",
            "ERROR: <input>:1:20: found no matching overload for '_==_' applied to '(int, string)'\n | \
             self.spec.replicas == 'a'\n | ...................^",
        ),
        ("self.spec.name.foo", "type 'string' does not support field selection"),
        (
            "self.spec.name.startsWith(1)",
            "found no matching overload for 'startsWith' applied to 'string.(int)'",
        ),
        (
            "self.spec.replicas.all(x, true)",
            "expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)",
        ),
        ("[1, 'a']", "expected type 'int' but found 'string'"),
        ("1 +", "Syntax error: mismatched input '<EOF>' expecting"),
        ("a b", "Syntax error: extraneous input 'b' expecting <EOF>"),
        ("has(1)", "invalid argument to has() macro"),
        ("[1].all(1, true)", "argument must be a simple name"),
        ("for", "reserved identifier: for"),
        ("foo(1)", "undeclared reference to 'foo' (in container '')"),
        ("duration('x') == d", "invalid duration argument"),
        ("timestamp('x') == d", "invalid timestamp argument"),
        ("'a'.matches('(')", "invalid matches argument"),
        ("self.spec.anything.hidden == 1", "undefined field 'hidden'"),
        ("'abc", "Syntax error: token recognition error at: ''abc'"),
        ("9223372036854775808", "invalid int literal"),
        ("Thing{a: 1}", "undeclared reference to 'Thing' (in container '')"),
        ("1 == 1.0", "found no matching overload for '_==_' applied to '(int, double)'"),
    ] {
        let error = run(source, |_| ()).expect_err(source).0;
        assert!(error.contains(message), "{source}: {error}");
    }
}

#[test]
fn what_fails() {
    for (source, message) in [
        ("1 / 0", "division by zero"),
        ("1 % 0", "modulus by zero"),
        ("9223372036854775807 + 1", "integer overflow"),
        ("1u - 2u", "unsigned integer overflow"),
        ("d.zzz", "no such key: zzz"),
        ("d.l[5]", "index out of bounds: 5"),
        ("d.s + 1", "no such overload"),
        ("d.s > 1", "no such overload"),
        ("d.i.startsWith('a')", "no such overload: startsWith(int, string)"),
        ("optional.none().value()", "optional.none() dereference"),
        ("[].max()", "max called on empty list"),
        ("'abc'.substring(5)", "index out of range: 5"),
        ("int('x')", "strconv.ParseInt: parsing \"x\": invalid syntax"),
        ("{'a': 1, 'a': 2}", "Failed with repeated key: a"),
        ("ip('::ffff:1.2.3.4')", "IPv4-mapped IPv6 address \"::ffff:1.2.3.4\" is not allowed"),
        ("self.spec.labels['q']", "no such key: q"),
        ("[1].map(x, 1 / 0)", "division by zero"),
    ] {
        let error = run(source, |outcome| outcome.value.map(|_| ()).unwrap_err().to_string()).unwrap();
        assert_eq!(error, message, "{source}");
    }
}

#[test]
fn what_it_costs() {
    // Upstream's units: a name or field 1, a list 10, a map 30, an object 40, walking a text a tenth per character.
    for (source, cost) in [
        ("1 == 1", 1),
        ("d.i == 1", 3),
        ("self.spec.replicas == 3", 4),
        ("has(d.m.k)", 2),
        ("d.l[0] == 1", 4),
        ("[d.i].size() == 1", 14),
        ("'abc'.contains('b')", 1),
        ("1 in [1, 2, 3]", 0),
        ("[1, 2, 3].all(x, x > 0)", 3 * 5 + 1),
        ("d.l.exists(x, x == 2)", 2 + 2 * 6 + 1),
        ("true || d.i == 1", 0),
        ("authorizer.path('/x').check('get').allowed()", 1 + 1 + 350_000 + 1),
    ] {
        assert_eq!(run(source, |outcome| outcome.cost), Ok(cost), "{source}");
    }
    let limited = |source: &str| run(source, |outcome| outcome.value.map(|_| ()).unwrap_err()).unwrap();
    let twenty = (0..20).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let nested = format!(
        "[{twenty}].all(a, [{twenty}].all(b, [{twenty}].all(c, [{twenty}].all(d, a + b + c + d < 99))))"
    );
    assert_eq!(limited(&nested), Error::CostLimit);
    // Each entry is compared with all before it.
    let keys = (0..8_000).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    assert_eq!(limited(&format!("[{keys}].transformMapEntry(i, v, {{v: i}})")), Error::CostLimit);
    let asked = "[1, 2, 3].all(x, authorizer.path('/x').check('get').allowed())";
    assert_eq!(limited(asked), Error::CostLimit);
    // What is made of a part a hundred times takes no room until somebody looks at all of it.
    let hundred = |of: &str| vec![of; 100].join(",");
    let shared = |then: &str| {
        let names = ["''", "a", "b", "c", "e", "f"];
        let made = names.windows(2).rev().fold(then.to_owned(), |then, pair| {
            format!("cel.bind({}, [{}], {then})", pair[1], hundred(pair[0]))
        });
        limited(&made)
    };
    for looks in [
        "f.flatten(9).size() == 0",
        "f.flatten().flatten().flatten().flatten().size() == 0",
        "f == f",
        "f != f",
        "f in [f]",
        "{'k': f} == {'k': f}",
        "sets.contains([f], [f])",
        "f.reverse().size() == 0",
        "'%s'.format([f]) == ''",
    ] {
        assert_eq!(shared(looks), Error::CostLimit, "{looks}");
    }
    let later = limited("authorizer.path('/x').check('later').allowed() || true");
    assert!(matches!(later, Error::Undecided(check) if check.verb == "later"));
}

#[test]
fn estimates() {
    let structural = schema();
    let declared = Declared::of(&structural, "selfType").unwrap();
    let estimate = |source: &str| {
        let program = compile(source, &scope(&structural)).unwrap();
        program.estimate(&BTreeMap::from([("self".to_owned(), &declared)]))
    };
    // A list of texts in a request of 3 MiB: (3 MiB - 2) / 3 of them.
    let tags = (3 * 1024 * 1024 - 2) / 3;
    for (source, cost) in [
        ("self.spec.replicas > 1", 4),
        ("self.spec.name == 'x'", 4),
        ("has(self.spec.name)", 2),
        ("self.spec.tags.all(t, t.size() > 0)", 3 + tags * (2 + 1 + 1 + 1 + 1) + 1),
        ("self.spec.name.contains('x')", 3 + 8),
        // A name has no more than 253 characters of four bytes.
        ("self.metadata.name.contains('x')", 3 + 102),
        ("self.metadata.generateName.contains('x')", 3 + 102),
    ] {
        assert_eq!(estimate(source), cost, "{source}");
    }
    assert!(estimate("self.spec.tags.all(a, self.spec.tags.all(b, a == b))") > 1_000_000_000_000);
}

#[test]
fn depth_is_bounded() {
    // On a thread with the stack of a worker of the runtime.
    let deep = |open: &str, inner: &str, close: &str, times: usize| {
        format!("{}{inner}{}", open.repeat(times), close.repeat(times))
    };
    // Names that stand for sums of which each begins with the name before it.
    let binds = |names: usize, terms: usize| {
        let sum = |name: usize| match name {
            0 => "1".to_owned(),
            name => format!("v{}{}", name - 1, " + 1".repeat(terms)),
        };
        let open: String = (0..names).map(|name| format!("cel.bind(v{name}, {}, ", sum(name))).collect();
        format!("{open}v{} > 0{}", names - 1, ")".repeat(names))
    };
    let check = move || {
        for source in [
            deep("(", "1", ")", 5_000),
            deep("[", "1", "]", 5_000),
            deep("!", "true", "", 5_000) + " && " + &deep("-", "1", "", 5_000) + " < 2",
            deep("d.l.map(x, ", "x", ")", 1_000),
            format!("d{} == 1", ".k".repeat(5_000)),
            format!("1{} == 1", " + 1".repeat(5_000)),
            deep("[1].map(x, ", "1", ")", 60),
            deep("[", "1", "]", 110) + " == d",
            format!("d.i{} == 1", " + 1".repeat(200)),
            format!("true{}", " && true".repeat(9_000)),
            binds(100, 100),
        ] {
            // Either is right; not coming back is not.
            let _ = run(&source, |outcome| outcome.cost);
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(check).unwrap().join().unwrap();
}
