//! `$(VAR)` in commands, arguments, environment values and sub-paths.
//! Upstream: `third_party/forked/golang/expansion`.

/// Replaces every `$(NAME)` that `lookup` knows; `$$` is a plain `$`; what is unknown stays as it is written.
pub fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = tail.strip_prefix('(').and_then(|tail| tail.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn expands() {
        for (text, want) in [
            ("$(A)-$(B)", "1-$(B)"),
            ("$$(A)", "$(A)"),
            ("$A $(A", "$A $(A"),
            ("x$", "x$"),
            ("$($(A))", "$($(A))"),
        ] {
            assert_eq!(super::expand(text, |name| (name == "A").then_some("1")), want, "{text}");
        }
    }
}
