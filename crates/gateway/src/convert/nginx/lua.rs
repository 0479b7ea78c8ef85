//! As much of Lua as it takes to find the end of a block: braces in texts and comments are none.

/// The length of a block, in bytes, from behind its opening brace to behind the closing one. `None`: it has no end.
pub(super) fn block(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 1_usize);
    while depth > 0 {
        at += match bytes.get(at)? {
            b'{' => {
                depth += 1;
                1
            }
            b'}' => {
                depth -= 1;
                1
            }
            quote @ (b'"' | b'\'') => 1 + quoted(&bytes[at + 1..], *quote),
            b'[' => long_brackets(&text[at..]).unwrap_or(1),
            b'-' if bytes.get(at + 1) == Some(&b'-') => {
                let comment = &text[at + 2..];
                2 + long_brackets(comment).unwrap_or_else(|| comment.find('\n').unwrap_or(comment.len()))
            }
            _ => 1,
        };
    }
    Some(at)
}

/// The length of the rest of a text that ends with `quote`, or with its line where that is missing.
fn quoted(bytes: &[u8], quote: u8) -> usize {
    let mut at = 0;
    while let Some(byte) = bytes.get(at).filter(|byte| **byte != b'\n') {
        at += match byte {
            b'\\' => 2,
            byte if *byte == quote => return at + 1,
            _ => 1,
        };
    }
    at.min(bytes.len())
}

/// The length of `[[ … ]]` or `[==[ … ]==]`, if that is what the text begins with.
fn long_brackets(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('[')?;
    let level = inner.bytes().take_while(|byte| *byte == b'=').count();
    inner[level..].strip_prefix('[')?;
    let close = format!("]{}]", "=".repeat(level));
    Some(text.find(&close).map_or(text.len(), |at| at + close.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn braces_in_texts_and_comments_are_none() {
        for block_text in [
            "}",
            " local t = { a = {} } }",
            " -- a } brace\n }",
            " s = \"}\" .. '\\'}' }",
            " s = [[ }} ]] .. [=[ ]] } ]=] }",
            " --[[ }\n } ]] --[==[ ]] } ]==] }",
            " a[1] = b[c[2]] - 1 }",
            " s = 'not closed }\n }",
            " ü = '}ü' }",
        ] {
            assert_eq!(block(&format!("{block_text} b;")), Some(block_text.len()), "{block_text}");
        }
        for endless in ["", " { }", " '}'", " -- }", " [[ }", " '\\"] {
            assert_eq!(block(endless), None, "{endless}");
        }
    }

    proptest! {
        #[test]
        fn a_block_ends_behind_a_brace(text in "[-{}\\[\\]='\"\\\\ \na]{0,60}|\\PC{0,60}") {
            if let Some(length) = block(&text) {
                prop_assert_eq!(text[..length].chars().last(), Some('}'));
            }
        }
    }
}
