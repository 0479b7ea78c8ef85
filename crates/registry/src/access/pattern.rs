//! Patterns of image names, in the form that Artifactory's permission targets use.

use std::fmt;
use std::str::FromStr;

/// Longest pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 256;

/// A pattern of image names: `?` stands for one character, `*` for any within one path segment, `**` for any number of
/// segments, none included. `team/**` fits `team` and everything below; `team-a/**` does not fit `team-ab/x`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

/// The text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pattern has 1 to {PATTERN_BYTES_MAX} characters of image names, '/', '?' and '*'; '**' stands alone between slashes")]
pub struct InvalidPattern;

impl Pattern {
    /// Whether it fits every name there is.
    #[must_use]
    pub fn is_universal(&self) -> bool {
        self.0 == "**"
    }

    /// Whether it fits `name`.
    #[must_use]
    pub fn fits(&self, name: &str) -> bool {
        let pattern: Vec<&str> = self.0.split('/').collect();
        let name: Vec<&str> = name.split('/').collect();
        segments_fit(&pattern, &name)
    }
}

/// Matches without going back over more than the last `**`, so a pattern of many stars costs no more than the product of
/// both lengths.
fn segments_fit(pattern: &[&str], name: &[&str]) -> bool {
    wildcard_fit(pattern, name, |one| *one == "**", |one, segment| segment_fits(one, segment))
}

fn segment_fits(pattern: &str, segment: &str) -> bool {
    wildcard_fit(pattern.as_bytes(), segment.as_bytes(), |one| *one == b'*', |one, byte| *one == b'?' || one == byte)
}

/// The usual greedy match: on a mismatch the last star takes in one item more.
fn wildcard_fit<P, T>(pattern: &[P], items: &[T], is_star: impl Fn(&P) -> bool, fits: impl Fn(&P, &T) -> bool) -> bool {
    let (mut at, mut seen, mut retry) = (0, 0, None);
    while seen < items.len() {
        match pattern.get(at) {
            Some(star) if is_star(star) => {
                retry = Some((at + 1, seen));
                at += 1;
            }
            Some(one) if fits(one, &items[seen]) => {
                at += 1;
                seen += 1;
            }
            _ => match retry {
                Some((behind, taken)) => {
                    retry = Some((behind, taken + 1));
                    (at, seen) = (behind, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(is_star)
}

impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-' | b'/' | b'*' | b'?');
        let segment_is_good = |segment: &str| !segment.is_empty() && (segment == "**" || !segment.contains("**"));
        let good = text.len() <= PATTERN_BYTES_MAX && text.bytes().all(allowed) && text.split('/').all(segment_is_good);
        if good { Ok(Self(text.to_owned())) } else { Err(InvalidPattern) }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fits(pattern: &str, name: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().fits(name)
    }

    #[test]
    fn patterns_fit_what_they_should() {
        for (pattern, inside, outside) in [
            ("**", &["a", "a/b", "a/b/c"][..], &[][..]),
            ("*", &["a", "abc"], &["a/b"]),
            ("team-a/**", &["team-a", "team-a/x", "team-a/x/y"], &["team-ab/x", "team-ab", "x/team-a"]),
            ("team/*", &["team/x"], &["team", "team/x/y"]),
            ("**/app", &["app", "a/app", "a/b/app"], &["apps", "app/a"]),
            ("a/**/z", &["a/z", "a/b/z", "a/b/c/z"], &["a", "z", "a/zz"]),
            ("lib?/v*.x", &["liba/v1.x", "lib1/v.x"], &["lib/v.x", "liba/v1.y"]),
            ("a*b*c", &["abc", "aXbYbZc"], &["ab", "acb"]),
            ("app", &["app"], &["app/x", "apps"]),
        ] {
            for name in inside {
                assert!(fits(pattern, name), "{pattern} {name}");
            }
            for name in outside {
                assert!(!fits(pattern, name), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn what_could_mean_two_things_is_no_pattern() {
        for bad in ["", "/a", "a/", "a//b", "a**", "**a", "***", "A", "a b", "a\\b", "[a]", "{a,b}", &"a".repeat(257)] {
            assert_eq!(bad.parse::<Pattern>(), Err(InvalidPattern), "{bad:?}");
        }
    }

    #[test]
    fn many_stars_do_not_take_for_ever() {
        assert!(!fits(&format!("{}b", "*a".repeat(100)), &"a".repeat(250)));
    }

    proptest! {
        #[test]
        fn a_name_fits_itself_and_whatever_leads_to_it(name in "[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,4}") {
            prop_assert!(fits(&name, &name));
            prop_assert!(fits("**", &name));
            let last = name.rsplit('/').next().unwrap();
            prop_assert!(fits(&format!("**/{last}"), &name), "{}", last);
            let below = format!("{}/**", name.split('/').next().unwrap());
            prop_assert!(fits(&below, &name));
        }

        #[test]
        fn anything_parses_or_is_refused(text in "\\PC{0,40}", name in "[a-z/]{1,20}") {
            if let Ok(pattern) = text.parse::<Pattern>() {
                prop_assert_eq!(pattern.to_string(), text);
                let _ = pattern.fits(&name);
            }
        }
    }
}
