//! Whether every reader finds the same under the names that matter.
//!
//! Go's decoder, and so docker, containerd and most others, takes `Layers` for `layers`, and of two members of one name the
//! last. Ours passes `Layers` over. What we judge rights and references by must be what they pull, so what could be read in
//! both ways is refused where it comes in. Members that nobody here reads may be called as they like.

use std::fmt;

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What is known of a document's names.
#[derive(Debug)]
pub(crate) enum Shape {
    /// Nothing is read from it here, or its names are anybody's to choose.
    Any,
    /// A list of these.
    List(&'static Shape),
    /// An object of which these members are read, 32 at most.
    Object(&'static [(&'static str, &'static Shape)]),
}

/// Members of one object: there is a bit for each.
const MEMBERS_MAX: usize = 32;

/// Refuses a document in which a known name is written otherwise, or twice.
///
/// # Errors
/// A sentence that says which, or why it is no JSON.
pub(crate) fn check_names(bytes: &[u8], shape: &Shape) -> Result<(), String> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    Part(shape).deserialize(&mut deserializer).and_then(|()| deserializer.end()).map_err(|error| error.to_string())
}

/// A part of a document that is to be looked through.
#[derive(Clone, Copy)]
struct Part<'s>(&'s Shape);

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.0 {
            Shape::Any => deserializer.deserialize_ignored_any(IgnoredAny).map(drop),
            Shape::List(_) | Shape::Object(_) => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Shape::Object(members) = self.0 else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(());
        };
        debug_assert!(members.len() <= MEMBERS_MAX);
        let mut seen = 0_u32;
        while let Some(at) = map.next_key_seed(Name(members))? {
            let Some((at, (name, shape))) = at.and_then(|at| Some((at, members.get(at)?))) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if seen & (1 << at) != 0 {
                return Err(A::Error::custom(format_args!("{name} is there twice")));
            }
            seen |= 1 << at;
            map.next_value_seed(Part(shape))?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let of = if let Shape::List(of) = self.0 { of } else { &Shape::Any };
        while list.next_element_seed(Part(of))?.is_some() {}
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

/// A member's name: its place among those that are known, if it is one of them.
struct Name<'s>(&'s [(&'static str, &'static Shape)]);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Option<usize>, E> {
        match self.0.iter().position(|(name, _)| folds_to(text, name)) {
            Some(at) if self.0[at].0 == text => Ok(Some(at)),
            Some(at) => Err(E::custom(format_args!("{} is written in another way", self.0[at].0))),
            None => Ok(None),
        }
    }
}

/// Whether Go takes a text for a name, which is ASCII: in any case, where beside the Latin letters the Kelvin sign is a `k` and
/// the long s an `s`.
fn folds_to(text: &str, name: &str) -> bool {
    text.len() >= name.len() && text.chars().map(fold).eq(name.chars().map(|letter| letter.to_ascii_lowercase()))
}

/// What every text that Go takes for the same name has in common.
pub(crate) fn folded(text: &str) -> String {
    text.chars().map(fold).collect()
}

fn fold(letter: char) -> char {
    match letter {
        '\u{212a}' => 'k',
        '\u{17f}' => 's',
        letter => letter.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INNER: Shape = Shape::Object(&[("digest", &Shape::Any), ("mediaType", &Shape::Any)]);
    const SHAPE: Shape = Shape::Object(&[("layers", &Shape::List(&INNER)), ("config", &INNER), ("sink", &Shape::Any)]);

    #[test]
    fn a_known_name_is_written_in_one_way_and_once() {
        for good in [
            "{}",
            "[]",
            "7",
            "null",
            r#"{"layers":[{"digest":1},{"digest":2,"mediaType":"a"}],"config":{},"other":{"Layers":1,"Layers":2}}"#,
            r#"{"layers":null,"config":[{"Digest":1}],"layer":1,"layerss":2,"x":1,"x":2}"#,
            r#"{"sink":{"Digest":1,"DIGEST":2}}"#,
            r#"{"\u006cayers":[]}"#,
        ] {
            assert_eq!(check_names(good.as_bytes(), &SHAPE), Ok(()), "{good}");
        }
        for bad in [
            r#"{"Layers":[]}"#,
            r#"{"LAYERS":[],"layers":[]}"#,
            r#"{"layers":[],"Layers":[]}"#,
            r#"{"layers":[],"layers":[]}"#,
            r#"{"layers":[],"\u006cayers":[]}"#,
            r#"{"\u004cayers":[]}"#,
            "{\"layer\u{17f}\":[]}",
            "{\"\u{17f}in\u{212a}\":1}",
            r#"{"layers":[{"digest":1},{"Digest":1}]}"#,
            r#"{"layers":[{"digest":1,"mediatype":1}]}"#,
            r#"{"config":{"digest":1,"digest":2}}"#,
            r#"{"config":{"MediaType":1}}"#,
            "{",
            "{} {}",
            "",
        ] {
            assert!(check_names(bad.as_bytes(), &SHAPE).is_err(), "{bad}");
        }
    }

    proptest! {
        /// As Go's `strings.EqualFold` has it for ASCII names.
        #[test]
        fn every_way_of_writing_a_name_is_found(name in "(layers|config|sink)", choices in prop::collection::vec(0..3_u8, 6)) {
            let written: String = name
                .chars()
                .zip(choices)
                .map(|(letter, choice)| match (choice, letter) {
                    (1, 'k') => '\u{212a}',
                    (1, 's') => '\u{17f}',
                    (2, letter) => letter.to_ascii_uppercase(),
                    (_, letter) => letter,
                })
                .collect();
            let checked = check_names(format!("{{\"{written}\":null}}").as_bytes(), &SHAPE);
            prop_assert_eq!(checked.is_ok(), written == name, "{}", written);
        }

        #[test]
        fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = check_names(&bytes, &SHAPE);
        }
    }
}
