//! What every JSON that we keep must be, whoever reads it later: text, and not nested without end.
//!
//! The parser skips over what it is not asked for without looking at either.

/// How deep objects and lists may be nested. The parser's own limit for what it does look at.
const DEPTH_MAX: usize = 128;

/// Whether the bytes are UTF-8 and nested no deeper than the limit. Everything else is the parser's to say.
pub(crate) fn is_sane(bytes: &[u8]) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => depth += 1,
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return false;
        }
    }
    std::str::from_utf8(bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_and_text_are_checked_even_where_nobody_looks() {
        let nested = |depth: usize| format!("{{\"x\":{}{}}}", "[".repeat(depth), "]".repeat(depth)).into_bytes();
        assert!(is_sane(&nested(127)) && !is_sane(&nested(128)) && !is_sane(&nested(100_000)));
        assert!(is_sane(format!("{{\"x\":\"\\\"{}\"}}", "[".repeat(1000)).as_bytes()));
        assert!(!is_sane(b"{\"x\":\"\xff\"}"));
    }
}
