//! Values with wildcards.

/// A value to look for: `*` stands for any characters, `?` for one; nothing at all for any value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wildcard(String);

impl Wildcard {
    /// What `text` stands for.
    pub fn new(text: &str) -> Self {
        Self(if text.is_empty() { "*".to_owned() } else { text.to_owned() })
    }

    /// Whether every value fits.
    pub fn is_any(&self) -> bool {
        self.0.bytes().all(|byte| byte == b'*')
    }

    pub(super) fn has_nul(&self) -> bool {
        self.0.contains('\0')
    }

    /// The one value that fits, if there is only one.
    pub(super) fn exact(&self) -> Option<&str> {
        (!self.0.contains(['*', '?'])).then_some(self.0.as_str())
    }

    /// What every value that fits starts with.
    pub(super) fn start(&self) -> &str {
        self.0.split(['*', '?']).next().unwrap_or_default()
    }

    /// Whether a value fits. Takes time in proportion to the product of both lengths at most.
    pub fn fits(&self, value: &str) -> bool {
        if let Some(exact) = self.exact() {
            return exact == value;
        }
        let (pattern, value): (Vec<char>, Vec<char>) = (self.0.chars().collect(), value.chars().collect());
        let (mut p, mut v, mut star) = (0, 0, None);
        while v < value.len() {
            match pattern.get(p) {
                Some('*') => {
                    star = Some((p, v));
                    p += 1;
                }
                Some(c) if *c == '?' || *c == value[v] => (p, v) = (p + 1, v + 1),
                _ => match star {
                    // The last star takes one more.
                    Some((at, taken)) => {
                        star = Some((at, taken + 1));
                        (p, v) = (at + 1, taken + 1);
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|c| *c == '*')
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wildcards_fit_what_they_should() {
        for (pattern, fits, fails) in [
            ("", "anything", None),
            ("library/*", "library/ubuntu", Some("librar")),
            ("*/ubuntu", "library/ubuntu", Some("ubuntu")),
            ("?", "a", Some("ab")),
            ("a*b*c", "aXbXbc", Some("aXc")),
            ("1.0", "1.0", Some("1x0")),
            ("a?c*", "abc", Some("ac")),
            ("**", "", None),
        ] {
            assert!(Wildcard::new(pattern).fits(fits), "{pattern} {fits}");
            assert!(fails.is_none_or(|fails| !Wildcard::new(pattern).fits(fails)), "{pattern} {fails:?}");
        }
        assert!(Wildcard::new("").is_any() && !Wildcard::new("*a").is_any());
    }

    proptest! {
        #[test]
        fn a_value_fits_itself_and_its_start(value in "[a-z*?/]{0,12}", rest in "[a-z/]{0,12}") {
            let (start, whole) = (format!("{value}*"), format!("{value}{rest}"));
            prop_assert!(Wildcard::new(&start).fits(&whole));
            prop_assert!(Wildcard::new(&value).fits(&value));
        }

        #[test]
        fn what_fits_begins_as_the_pattern_does(pattern in "[ab*?]{0,6}", value in "[ab]{0,8}") {
            let pattern = Wildcard::new(&pattern);
            prop_assert_eq!(pattern.fits(&value), slowly(&pattern.0, &value));
            prop_assert!(!pattern.fits(&value) || value.starts_with(pattern.start()));
        }
    }

    /// The definition, word for word.
    fn slowly(pattern: &str, value: &str) -> bool {
        match (pattern.split_at_checked(1), value.split_at_checked(1)) {
            (Some(("*", rest)), tried) => slowly(rest, value) || tried.is_some_and(|(_, value)| slowly(pattern, value)),
            (Some((one, rest)), Some((first, value))) => (one == "?" || one == first) && slowly(rest, value),
            (None, None) => true,
            _ => false,
        }
    }
}
