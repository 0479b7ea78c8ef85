//! Where a request is at: what the client's address is bound to, and how images are named there.
//!
//! A front binds an address to one repository, or to all of them. At an address of all, names begin with the key of a
//! repository (`docker-local/team/app`), and what docker asks of the address as a whole is about no repository at all.

use berth_names::wire::ALL_REPOSITORIES;
use berth_names::{ImageName, Origin, RepositoryKey};
use berth_registry::access::Audience;

/// Where a request is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a repository, at an address of its own.
    Own(RepositoryKey),
    /// In a repository, at an address of all: names begin with its key.
    Keyed(RepositoryKey),
    /// At an address of all repositories, and in none of them.
    All,
}

impl Place {
    /// The repository.
    pub(crate) fn repository(&self) -> Option<&RepositoryKey> {
        match self {
            Self::Own(key) | Self::Keyed(key) => Some(key),
            Self::All => None,
        }
    }

    /// Whether the address is one of all repositories.
    pub(crate) fn is_of_all(&self) -> bool {
        match self {
            Self::Own(_) => false,
            Self::Keyed(_) | Self::All => true,
        }
    }

    /// How the logs call it.
    pub(crate) fn label(&self) -> &str {
        self.repository().map_or(ALL_REPOSITORIES, RepositoryKey::as_str)
    }

    /// The audience of signed tokens that are good here.
    pub(crate) fn audience(&self, origin: &Origin) -> Audience {
        match self {
            Self::Own(key) => Audience::of(key, origin.authority()),
            Self::Keyed(_) | Self::All => Audience::of_all(origin.authority()),
        }
    }

    /// The name by which the client knows an image that is here.
    pub(crate) fn name_of(&self, image: &ImageName) -> String {
        match self {
            Self::Keyed(key) => format!("{key}/{image}"),
            Self::Own(_) | Self::All => image.to_string(),
        }
    }

    /// The image that the client means by a name, and its repository.
    pub(crate) fn image_named(&self, name: &str) -> Option<(RepositoryKey, ImageName)> {
        match self {
            Self::Own(key) => Some((key.clone(), name.parse().ok()?)),
            Self::Keyed(_) | Self::All => {
                let (key, image) = name.split_once('/')?;
                Some((key.parse().ok()?, image.parse().ok()?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_repository_is_called_like_all_of_them() {
        assert!(ALL_REPOSITORIES.parse::<RepositoryKey>().is_err());
    }

    #[test]
    fn names_lead_back_to_what_they_are_made_from() {
        let (key, image): (RepositoryKey, ImageName) = ("docker-local".parse().unwrap(), "team/app".parse().unwrap());
        for (place, name) in [(Place::Own(key.clone()), "team/app"), (Place::Keyed(key.clone()), "docker-local/team/app")] {
            assert_eq!(place.name_of(&image), name);
            assert_eq!(place.image_named(name), Some((key.clone(), image.clone())));
        }
        for none in ["", "docker-local", "docker-local/", "/team", "_x/team", "docker-local/Team", "docker-local//team", "../team/app"] {
            assert_eq!(Place::All.image_named(none), None, "{none}");
        }
    }
}
