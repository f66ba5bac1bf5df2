//! Syntax of names, labels, ports and paths. Each function returns the reasons why its argument is wrong, empty when it is right.
//! Upstream: apimachinery `pkg/util/validation`, `pkg/api/validation`; the messages are wire behaviour.

const LABEL_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
     and must start and end with an alphanumeric character";
const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
     '-' or '.', and must start and end with an alphanumeric character";
const LABEL_1035_FORMAT: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const LABEL_1035_MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start \
     with an alphabetic character, and end with an alphanumeric character";
const QUALIFIED_FORMAT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const LABEL_VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', \
     '_' or '.', and must start and end with an alphanumeric character";

/// Longest DNS label, bytes.
pub const DNS_LABEL_MAX: usize = 63;
/// Longest DNS subdomain, bytes.
pub const DNS_SUBDOMAIN_MAX: usize = 253;

fn pattern_message(message: &str, format: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{format}')");
    }
    let examples: Vec<_> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{format}')", examples.join(" or "))
}

/// `must be no more than N bytes`.
pub fn max_length_message(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// `must be between LOW and HIGH, inclusive`.
pub fn range_message(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn ends_are(text: &str, test: fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(&first), Some(&last)) if test(first) && test(last))
}

fn label_shaped(text: &str) -> bool {
    ends_are(text, lower_alphanumeric) && text.bytes().all(|byte| lower_alphanumeric(byte) || byte == b'-')
}

fn qualified_shaped(text: &str) -> bool {
    ends_are(text, |byte| byte.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// A DNS label as RFC 1123 defines it: names of namespaces, containers, ports' DNS names.
pub fn is_dns1123_label(text: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if text.len() > DNS_LABEL_MAX {
        messages.push(max_length_message(DNS_LABEL_MAX));
    }
    if !label_shaped(text) {
        // A subdomain in the place of a label is the usual mistake, and gets its own answer.
        if text.split('.').all(label_shaped) {
            messages.push("must not contain dots".to_owned());
        } else {
            messages.push(pattern_message(LABEL_MESSAGE, LABEL_FORMAT, &["my-name", "123-abc"]));
        }
    }
    messages
}

/// A DNS subdomain as RFC 1123 defines it: names of most objects.
pub fn is_dns1123_subdomain(text: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if text.len() > DNS_SUBDOMAIN_MAX {
        messages.push(max_length_message(DNS_SUBDOMAIN_MAX));
    }
    if !text.split('.').all(label_shaped) {
        let format = format!("{LABEL_FORMAT}(\\.{LABEL_FORMAT})*");
        messages.push(pattern_message(SUBDOMAIN_MESSAGE, &format, &["example.com"]));
    }
    messages
}

/// A DNS subdomain that may also hold underscores (search paths of a pod's resolver).
pub fn is_dns1123_subdomain_with_underscore(text: &str) -> Vec<String> {
    let shaped = |part: &str| {
        let rest = part.strip_prefix('_').unwrap_or(part);
        ends_are(rest, lower_alphanumeric)
            && rest.bytes().all(|byte| lower_alphanumeric(byte) || byte == b'-' || byte == b'_')
    };
    let mut messages = Vec::new();
    if text.len() > DNS_SUBDOMAIN_MAX {
        messages.push(max_length_message(DNS_SUBDOMAIN_MAX));
    }
    if !text.split('.').all(shaped) {
        messages.push(pattern_message(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', \
             and must start and end with an alphanumeric character",
            "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        ));
    }
    messages
}

/// A DNS label as RFC 1035 defines it (begins with a letter): names of Services.
pub fn is_dns1035_label(text: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if text.len() > DNS_LABEL_MAX {
        messages.push(max_length_message(DNS_LABEL_MAX));
    }
    if !label_shaped(text) || !text.as_bytes()[0].is_ascii_lowercase() {
        messages.push(pattern_message(LABEL_1035_MESSAGE, LABEL_1035_FORMAT, &["my-name", "abc-123"]));
    }
    messages
}

/// `*.` and a subdomain: hosts of Ingress rules.
pub fn is_wildcard_dns1123_subdomain(text: &str) -> Vec<String> {
    if text.len() > DNS_SUBDOMAIN_MAX {
        return vec![max_length_message(DNS_SUBDOMAIN_MAX)];
    }
    match text.strip_prefix("*.") {
        Some(rest) if rest.split('.').all(label_shaped) => Vec::new(),
        _ => vec![pattern_message(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must \
             consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!("\\*\\.{LABEL_FORMAT}(\\.{LABEL_FORMAT})*"),
            &["*.example.com"],
        )],
    }
}

/// A key of labels and annotations: an optional subdomain prefix with a slash, and a name.
pub fn is_qualified_name(text: &str) -> Vec<String> {
    let mut messages = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            let message =
                pattern_message(QUALIFIED_MESSAGE, QUALIFIED_FORMAT, &["MyName", "my.name", "123-abc"]);
            return vec![format!(
                "a qualified name {message} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
        Some((prefix, name)) => {
            if prefix.is_empty() {
                messages.push("prefix part must be non-empty".to_owned());
            } else {
                messages.extend(is_dns1123_subdomain(prefix).into_iter().map(|m| format!("prefix part {m}")));
            }
            name
        }
    };
    if name.is_empty() {
        messages.push("name part must be non-empty".to_owned());
    } else if name.len() > DNS_LABEL_MAX {
        messages.push(format!("name part {}", max_length_message(DNS_LABEL_MAX)));
    }
    if !qualified_shaped(name) {
        let message = pattern_message(QUALIFIED_MESSAGE, QUALIFIED_FORMAT, &["MyName", "my.name", "123-abc"]);
        messages.push(format!("name part {message}"));
    }
    messages
}

/// A value of a label.
pub fn is_label_value(text: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if text.len() > DNS_LABEL_MAX {
        messages.push(max_length_message(DNS_LABEL_MAX));
    }
    if !text.is_empty() && !qualified_shaped(text) {
        let format = format!("({QUALIFIED_FORMAT})?");
        messages.push(pattern_message(LABEL_VALUE_MESSAGE, &format, &["MyValue", "my_value", "12345"]));
    }
    messages
}

/// A finalizer or domain-prefixed path: `host/path` both required.
pub fn is_domain_prefixed_path(text: &str) -> Vec<String> {
    match text.split_once('/') {
        Some((host, path)) if !host.is_empty() && !path.is_empty() => {
            let mut messages: Vec<_> = is_dns1123_subdomain(host)
                .into_iter()
                .map(|message| format!("host part {message}"))
                .collect();
            let shaped = path
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"/%:?#[]@!$&'()*+,;=-._~".contains(&byte));
            if !shaped {
                messages.push(pattern_message("Invalid path", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", &[]));
            }
            messages
        }
        _ => vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned()],
    }
}

/// A port number.
pub fn is_port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec![range_message(1, 65535)] }
}

/// The name of a container's port (IANA_SVC_NAME).
pub fn is_port_name(text: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if text.len() > 15 {
        messages.push(max_length_message(15));
    }
    if !text.bytes().all(|byte| lower_alphanumeric(byte) || byte == b'-') || text.is_empty() {
        messages.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        messages.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        messages.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        messages.push("must not begin or end with a hyphen".to_owned());
    }
    messages
}

/// A key of a ConfigMap or Secret.
pub fn is_config_map_key(text: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if text.len() > DNS_SUBDOMAIN_MAX {
        messages.push(max_length_message(DNS_SUBDOMAIN_MAX));
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
        messages.push(pattern_message(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    messages.extend(path_dots(text));
    messages
}

fn path_dots(text: &str) -> Option<String> {
    match text {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if text.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// The name of an environment variable: any printable ASCII but `=` (upstream's relaxed rule, GA in 1.34).
pub fn is_env_var_name(text: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if text.is_empty() {
        messages.push("environment variable name must be non-empty".to_owned());
    }
    if text.bytes().any(|byte| !(0x20..=0x7e).contains(&byte) || byte == b'=') {
        messages.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_owned(),
        );
    }
    messages
}

/// The name of an object that becomes one element of a URL path.
pub fn is_path_segment(text: &str) -> Vec<String> {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    path_segment_characters(text)
}

/// A prefix of a name that becomes one element of a URL path (`generateName`).
pub fn path_segment_characters(text: &str) -> Vec<String> {
    ['/', '%']
        .into_iter()
        .filter(|&character| text.contains(character))
        .map(|character| format!("may not contain '{character}'"))
        .collect()
}

/// A percentage such as `25%`.
pub fn is_percent(text: &str) -> Vec<String> {
    let shaped =
        text.strip_suffix('%').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    if shaped {
        Vec::new()
    } else {
        vec![pattern_message(
            "a valid percent string must be a numeric string followed by an ending '%'",
            "[0-9]+%",
            &["1%", "93%"],
        )]
    }
}

/// A name of the language C.
pub fn is_c_identifier(text: &str) -> Vec<String> {
    let first = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if first && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        Vec::new()
    } else {
        vec![pattern_message(
            "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric \
             characters or '_'",
            "[A-Za-z_][A-Za-z0-9_]*",
            &["my_name", "MY_NAME", "MyName"],
        )]
    }
}

/// The reason of a condition.
pub fn is_condition_reason(text: &str) -> Vec<String> {
    let mut characters = text.chars();
    let first = characters.next().is_some_and(|c| c.is_ascii_alphabetic());
    let last = text.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let between = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ',' | ':');
    if first && last && characters.all(between) {
        Vec::new()
    } else {
        vec![pattern_message(
            "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric \
             characters or '_,:', and must end with an alphanumeric character or '_'",
            "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?",
            &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"],
        )]
    }
}

/// Address and prefix length of a CIDR, also of one with bits after the prefix.
pub fn parse_cidr(text: &str) -> Option<(std::net::IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    prefix(address.parse().ok()?, length)
}

pub(crate) fn prefix(address: std::net::IpAddr, length: &str) -> Option<(std::net::IpAddr, u8)> {
    // Parsing a number would take a sign.
    let length: u8 = length.parse().ok().filter(|_| length.bytes().all(|byte| byte.is_ascii_digit()))?;
    (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
}

/// How the name of a kind's objects is checked, before and after `generateName` got its suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NameRule {
    /// A DNS subdomain: most kinds.
    #[default]
    DnsSubdomain,
    /// A DNS label (RFC 1123): namespaces, and Services since v1.36.
    DnsLabel,
    /// One element of a URL path: RBAC kinds.
    PathSegment,
    /// An IP address in canonical form: IPAddress objects.
    IpAddress,
    /// The rule of the plural and group, checked by the kind's own hooks.
    Unchecked,
}

impl NameRule {
    /// The reasons why `name` is wrong. With `prefix`, `name` is a `generateName`: a trailing dash is allowed.
    pub fn check(self, name: &str, prefix: bool) -> Vec<String> {
        let masked;
        let name = if prefix && name.ends_with('-') && self != Self::PathSegment {
            // Upstream replaces the trailing dash by a letter for the purpose of the check.
            masked = format!("{}a", &name[..name.len() - 1]);
            &masked
        } else {
            name
        };
        match self {
            Self::DnsSubdomain => is_dns1123_subdomain(name),
            Self::DnsLabel => is_dns1123_label(name),
            Self::PathSegment if prefix => path_segment_characters(name),
            Self::PathSegment => is_path_segment(name),
            Self::IpAddress => match name.parse::<std::net::IpAddr>() {
                Ok(address) if address.to_string() == name => Vec::new(),
                _ => vec!["must be a valid IP address in canonical form".to_owned()],
            },
            Self::Unchecked => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Rule = fn(&str) -> Vec<String>;

    #[test]
    fn right_and_wrong_names() {
        let long = "a".repeat(64);
        let table: &[(Rule, &[&str], &[&str])] = &[
            (is_dns1123_label, &["a", "1", "a-b", "123-abc"], &["", "A", "-a", "a-", "a.b", "a_b", &long]),
            (is_dns1123_subdomain, &["a.b", "a", &long], &["", "a..b", ".a", "A.b"]),
            (is_dns1035_label, &["a", "a1"], &["", "1a", "a.b"]),
            (is_qualified_name, &["a", "A_b.c", "x.y/Name"], &["", "/a", "a/", "a/b/c", "X/a", "-a", &long]),
            (is_label_value, &["", "a", "A_b.c"], &["-a", "a b", &long]),
            (is_port_name, &["http", "a1", "1a"], &["", "a--b", "-a", "123", "abcdefghijklmnop", "A"]),
            (is_config_map_key, &["a", ".a", "A_b-c.d"], &["", ".", "..", "..a", "a b", "a/b"]),
            (is_env_var_name, &["A", "a b", "1"], &["", "a=b", "é"]),
            (is_percent, &["1%", "100%"], &["1", "%", "a%"]),
        ];
        for (rule, right, wrong) in table {
            for text in *right {
                assert_eq!(rule(text), Vec::<String>::new(), "{text:?}");
            }
            for text in *wrong {
                assert!(!rule(text).is_empty(), "{text:?} should be refused");
            }
        }
    }

    #[test]
    fn a_generated_prefix_may_end_in_a_dash() {
        assert!(NameRule::DnsSubdomain.check("web-", true).is_empty());
        assert!(!NameRule::DnsSubdomain.check("web-", false).is_empty());
        assert!(NameRule::PathSegment.check("system:node", false).is_empty());
        assert!(!NameRule::PathSegment.check("a/b", false).is_empty());
    }

    #[test]
    fn the_message_names_the_pattern() {
        assert_eq!(
            is_dns1123_subdomain("POD"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
              start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
    }
}
