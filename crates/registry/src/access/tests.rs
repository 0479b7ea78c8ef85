//! Users, permissions and tokens over a real store, with a clock that the tests turn.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use berth_names::{ApiVersion, ImageName};
use berth_storage::records::{Group, Permission, TokenScope};
use berth_storage::rocksdb;

use super::*;
use crate::Repository;

thread_local! {
    static NOW_MS: Cell<u64> = const { Cell::new(1_800_000_000_000) };
}

const PASSWORD: &str = "correct horse";

struct Fixture {
    _directory: tempfile::TempDir,
    _stores: rocksdb::Stores,
    access: Access,
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let stores = rocksdb::open(directory.path()).unwrap();
    let clock = Clock::from_fn(|| NOW_MS.get());
    let access = Access::new(Arc::clone(&stores.metadata), clock, PasswordPolicy::default()).unwrap();
    Fixture { _directory: directory, _stores: stores, access }
}

fn pass_s(seconds: u64) {
    NOW_MS.set(NOW_MS.get() + seconds * 1000);
}

fn name(text: &str) -> AccountName {
    text.parse().unwrap()
}

fn image(text: &str) -> ImageName {
    text.parse().unwrap()
}

fn repository(key: &str) -> Repository {
    Repository::new(key.parse().unwrap(), ApiVersion::V2)
}

fn audience(authority: &str) -> Audience {
    Audience::of(&"local".parse().unwrap(), &authority.parse().unwrap())
}

impl Fixture {
    async fn add_user(&self, user: &str) {
        let change = UserChange { password: Some(PASSWORD.into()), ..UserChange::default() };
        self.access.put_user(&name(user), Mode::Create, &change).await.unwrap();
    }

    async fn permit(
        &self,
        target: &str,
        repositories: &[&str],
        patterns: (&[&str], &[&str]),
        users: &[(&str, &str)],
        groups: &[(&str, &str)],
    ) {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let rights =
            |rights: &[(&str, &str)]| rights.iter().map(|(who, letters)| (name(who), (*letters).to_owned())).collect::<BTreeMap<_, _>>();
        let permission = Permission {
            repositories: repositories.iter().map(|key| (*key).to_owned()).collect(),
            includes: texts(patterns.0),
            excludes: texts(patterns.1),
            users: rights(users),
            groups: rights(groups),
        };
        self.access.put_permission(&name(target), Mode::Replace, &permission).await.unwrap();
    }

    async fn caller(&self, user: &str) -> Caller {
        self.access.log_in(user, PASSWORD, None).await.unwrap().unwrap()
    }

    async fn rights(&self, caller: &Caller, key: &str, of: &str) -> String {
        self.access.policy().await.unwrap().rights(caller, &repository(key), &image(of)).to_string()
    }

    async fn signed(&self, caller: &Caller, grants: &Grants) -> String {
        self.access.issue(TokenUse::Access, caller, &audience("r.example:444"), grants).await.unwrap().text
    }

    async fn by_signed(&self, text: &str) -> Option<Caller> {
        self.access.caller_by_signed(text, TokenUse::Access, &audience("r.example:444")).await.unwrap()
    }
}

fn grants(of: &str, rights: &str) -> Grants {
    let repository = "local".parse().unwrap();
    Grants { images: vec![Grant { repository, image: image(of), rights: rights.parse().unwrap() }], catalog: false }
}

#[tokio::test]
async fn rights_come_from_names_groups_and_anonymous_and_end_at_once() {
    let fixture = fixture();
    for user in ["alice", "bob"] {
        fixture.add_user(user).await;
    }
    let group = Group { description: String::new(), auto_join: false };
    fixture.access.put_group(&name("developers"), Mode::Create, &group, Some(&BTreeSet::from([name("bob")]))).await.unwrap();
    fixture.permit("team", &["local"], (&["team/**"], &["team/secret/**"]), &[("alice", "rw")], &[("developers", "rd")]).await;
    fixture.permit("public", &["ANY"], (&["public/*"], &[]), &[("anonymous", "r")], &[]).await;
    let (alice, bob) = (fixture.caller("alice").await, fixture.caller("bob").await);
    let anonymous = Caller::anonymous();
    for (caller, key, of, expected) in [
        (&alice, "local", "team/app", "rw"),
        (&alice, "local", "team", "rw"),
        (&alice, "local", "team/secret/x", ""),
        (&alice, "local", "teams/app", ""),
        (&alice, "other", "team/app", ""),
        (&alice, "other", "public/app", "r"),
        (&bob, "local", "team/app", "rd"),
        (&anonymous, "local", "team/app", ""),
        (&anonymous, "local", "public/app", "r"),
        (&Caller::operator(), "other", "x", "rwndm"),
    ] {
        assert_eq!(fixture.rights(caller, key, of).await, expected, "{caller:?} {key} {of}");
    }
    // Out of the group, and of the target, the rights are gone with the next request.
    fixture.access.put_group(&name("developers"), Mode::Update, &group, Some(&BTreeSet::new())).await.unwrap();
    assert_eq!(fixture.rights(&fixture.caller("bob").await, "local", "team/app").await, "");
    fixture.access.delete_permission(&name("team")).await.unwrap();
    assert_eq!(fixture.rights(&alice, "local", "team/app").await, "");
}

#[tokio::test]
async fn a_name_that_is_used_again_inherits_nothing() {
    let fixture = fixture();
    fixture.add_user("admin").await;
    fixture.add_user("alice").await;
    fixture.permit("team", &["local"], (&["**"], &[]), &[("alice", "r")], &[]).await;
    let alice = fixture.caller("alice").await;
    let token = fixture.access.create_token(&name("alice"), &TokenWish::default()).await.unwrap();
    let signed = fixture.signed(&alice, &grants("app", "r")).await;
    assert!(fixture.by_signed(&signed).await.is_some());

    fixture.access.delete_user(&name("alice")).await.unwrap();
    fixture.add_user("alice").await;
    assert!(fixture.by_signed(&signed).await.is_none());
    assert!(fixture.access.log_in("alice", &token.text, None).await.unwrap().is_none());
    assert_eq!(fixture.rights(&fixture.caller("alice").await, "local", "app").await, "");
    assert!(fixture.access.permission(&name("team")).await.unwrap().users.is_empty());
}

#[tokio::test]
async fn group_removed_loses_access_on_next_request_though_the_token_is_still_good() {
    let fixture = fixture();
    fixture.add_user("alice").await;
    let group = Group { description: String::new(), auto_join: false };
    fixture.access.put_group(&name("g"), Mode::Create, &group, Some(&BTreeSet::from([name("alice")]))).await.unwrap();
    fixture.permit("t", &["local"], (&["**"], &[]), &[], &[("g", "rw")]).await;
    let signed = fixture.signed(&fixture.caller("alice").await, &grants("app", "rw")).await;
    assert_eq!(fixture.rights(&fixture.by_signed(&signed).await.unwrap(), "local", "app").await, "rw");
    fixture.access.delete_group(&name("g")).await.unwrap();
    assert_eq!(fixture.rights(&fixture.by_signed(&signed).await.unwrap(), "local", "app").await, "");
}

#[tokio::test]
async fn a_signed_token_grants_what_it_was_issued_for_and_only_there() {
    let fixture = fixture();
    fixture.add_user("alice").await;
    fixture.permit("t", &["ANY"], (&["**"], &[]), &[("alice", "rwd")], &[]).await;
    let signed = fixture.signed(&fixture.caller("alice").await, &grants("team-a", "r")).await;
    let caller = fixture.by_signed(&signed).await.unwrap();
    assert_eq!(fixture.rights(&caller, "local", "team-a").await, "r");
    // No other image, however alike; nothing in general; no more than was granted.
    assert_eq!(fixture.rights(&caller, "local", "team-ab").await, "");
    assert_eq!(fixture.rights(&caller, "local", "team-a/x").await, "");
    let policy = fixture.access.policy().await.unwrap();
    assert!(policy.rights_everywhere(&caller, &repository("local")).is_empty());
    assert!(!caller.may_list() && !caller.is_admin());
    // Another binding, another repository, another use.
    let by = async |token_use, audience: Audience| fixture.access.caller_by_signed(&signed, token_use, &audience).await.unwrap();
    assert!(by(TokenUse::Access, audience("r.example:445")).await.is_none());
    assert!(by(TokenUse::Access, audience("evil.example:444")).await.is_none());
    assert!(by(TokenUse::Access, Audience::of(&"other".parse().unwrap(), &"r.example:444".parse().unwrap())).await.is_none());
    assert!(by(TokenUse::Refresh, audience("r.example:444")).await.is_none());
    assert!(by(TokenUse::V1, audience("r.example:444")).await.is_none());
}

#[tokio::test]
async fn token_replay_after_password_change_fails() {
    let fixture = fixture();
    fixture.add_user("alice").await;
    let signed = fixture.signed(&fixture.caller("alice").await, &grants("app", "r")).await;
    let change = UserChange { password: Some("another horse".into()), ..UserChange::default() };
    fixture.access.put_user(&name("alice"), Mode::Update, &change).await.unwrap();
    assert!(fixture.by_signed(&signed).await.is_none());
    assert!(fixture.access.log_in("alice", PASSWORD, None).await.unwrap().is_none());
    assert!(fixture.access.log_in("alice", "another horse", None).await.unwrap().is_some());
}

#[tokio::test]
async fn a_disabled_user_can_do_nothing_and_old_tokens_stay_dead_when_enabled_again() {
    let fixture = fixture();
    fixture.add_user("alice").await;
    let signed = fixture.signed(&fixture.caller("alice").await, &grants("app", "r")).await;
    let token = fixture.access.create_token(&name("alice"), &TokenWish::default()).await.unwrap();
    for enabled in [false, true] {
        let change = UserChange { enabled: Some(enabled), ..UserChange::default() };
        fixture.access.put_user(&name("alice"), Mode::Update, &change).await.unwrap();
        assert_eq!(fixture.access.log_in("alice", PASSWORD, None).await.unwrap().is_some(), enabled);
        assert!(fixture.by_signed(&signed).await.is_none());
        assert!(fixture.access.log_in("alice", &token.text, None).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn tokens_end_when_their_time_is_up_to_the_second() {
    let fixture = fixture();
    fixture.add_user("alice").await;
    let signed = fixture.signed(&fixture.caller("alice").await, &grants("app", "r")).await;
    let wish = TokenWish { expires_in_s: Some(1000), ..TokenWish::default() };
    let token = fixture.access.create_token(&name("alice"), &wish).await.unwrap();
    pass_s(ACCESS_LIFE_S - 1);
    assert!(fixture.by_signed(&signed).await.is_some());
    pass_s(1);
    assert!(fixture.by_signed(&signed).await.is_none());
    assert!(fixture.access.log_in("alice", &token.text, None).await.unwrap().is_some());
    pass_s(1000 - ACCESS_LIFE_S);
    assert!(fixture.access.log_in("alice", &token.text, None).await.unwrap().is_none());
}

#[tokio::test]
async fn keys_change_every_day_and_old_ones_are_dropped_when_nothing_they_signed_can_be_good() {
    let fixture = fixture();
    fixture.add_user("alice").await;
    let alice = fixture.caller("alice").await;
    let refresh =
        async || fixture.access.issue(TokenUse::Refresh, &alice, &audience("r.example:444"), &Grants::default()).await.unwrap().text;
    let key_of = |token: &str| jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
    let is_good =
        async |token: &str| fixture.access.caller_by_signed(token, TokenUse::Refresh, &audience("r.example:444")).await.unwrap().is_some();
    let first = refresh().await;
    assert_eq!(key_of(&first), key_of(&refresh().await));
    pass_s(24 * 60 * 60 + 1);
    let second = refresh().await;
    assert_ne!(key_of(&first), key_of(&second));
    assert!(is_good(&first).await && is_good(&second).await);
    pass_s(95 * 24 * 60 * 60);
    let third = refresh().await;
    assert!(!is_good(&first).await && is_good(&third).await);
    assert_eq!(fixture.access.store.scan(&keys::signing_keys(), None, 10).await.unwrap().len(), 1);
}

/// A token made by hand, signed with `secret` under any header.
fn forged(header: &str, claims: &str, secret: &[u8]) -> String {
    use base64::Engine as _;
    let encode = |text: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let message = format!("{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()));
    let key = jsonwebtoken::EncodingKey::from_secret(secret);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

#[tokio::test]
async fn forged_tokens_are_refused_whatever_their_header_says() {
    use base64::Engine as _;
    let fixture = fixture();
    fixture.add_user("alice").await;
    let good = fixture.signed(&fixture.caller("alice").await, &grants("app", "r")).await;
    let kid = jsonwebtoken::decode_header(&good).unwrap().kid.unwrap();
    let parts: Vec<&str> = good.split('.').collect();
    let claims = String::from_utf8(base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    let stored = fixture.access.store.scan(&keys::signing_keys(), None, 1).await.unwrap();
    let secret = <berth_storage::records::SigningKey as berth_storage::records::Record>::decode(&stored[0].1).unwrap().secret;
    let ours = |header: &str, claims: &str| forged(header, claims, secret.as_bytes());
    let plain = format!(r#"{{"alg":"HS256","typ":"JWT","kid":"{kid}"}}"#);
    // The forger's tool works: with our secret, what it makes is good.
    assert!(fixture.by_signed(&ours(&plain, &claims)).await.is_some());

    let theirs = |header: &str| forged(header, &claims, b"theirs");
    let jwk = r#""jwk":{"kty":"oct","k":"dGhlaXJz","alg":"HS256"}"#;
    let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let none = encode(&format!(r#"{{"alg":"none","kid":"{kid}"}}"#));
    for (attack, token) in [
        ("jwt_embedded_jwk_ignored", theirs(&format!(r#"{{"alg":"HS256","kid":"{kid}",{jwk}}}"#))),
        ("jwt_with_another_key", theirs(&plain)),
        ("jwt_alg_none", format!("{none}.{}.", parts[1])),
        ("jwt_alg_none_with_signature", format!("{none}.{}.{}", parts[1], parts[2])),
        ("jwt_other_algorithm", ours(&format!(r#"{{"alg":"HS512","kid":"{kid}"}}"#), &claims)),
        ("jwt_public_key_algorithm", ours(&format!(r#"{{"alg":"RS256","kid":"{kid}"}}"#), &claims)),
        ("jwt_kid_missing", ours(r#"{"alg":"HS256"}"#, &claims)),
        ("jwt_kid_traversal", ours(r#"{"alg":"HS256","kid":"../../0"}"#, &claims)),
        ("jwt_kid_with_nul", ours(&format!(r#"{{"alg":"HS256","kid":"{kid}\u0000"}}"#), &claims)),
        ("jwt_kid_unknown", ours(r#"{"alg":"HS256","kid":"00000000000000000000"}"#, &claims)),
        ("jwt_other_issuer", ours(&plain, &claims.replace("\"berth\"", "\"birth\""))),
        ("jwt_other_audience", ours(&plain, &claims.replace("local@", "other@"))),
        ("jwt_audience_list", ours(&plain, &claims.replace("\"local@r.example:444\"", "[\"x\",\"other@r.example:444\"]"))),
        ("jwt_from_the_future", ours(&plain, &claims.replace("\"iat\":18", "\"iat\":19"))),
        ("jwt_expired", ours(&plain, &claims.replace("\"exp\":18", "\"exp\":17"))),
        ("jwt_unknown_claim", ours(&plain, &claims.replace("{\"iss\"", "{\"admin\":true,\"iss\""))),
        ("jwt_other_user", ours(&plain, &claims.replace("\"alice\"", "\"admin\""))),
        ("jwt_without_subject_but_generation", ours(&plain, &claims.replace("\"sub\":\"alice\",", ""))),
        ("jwt_truncated", good[..good.len() - 1].to_owned()),
        ("jwt_extended", format!("{good}A")),
        ("jwt_two_parts", format!("{}.{}", parts[0], parts[1])),
        ("jwt_huge", "a".repeat(100_000)),
    ] {
        assert_ne!(token, good, "{attack}");
        assert!(fixture.by_signed(&token).await.is_none(), "{attack}");
    }
    assert!(fixture.by_signed(&good).await.is_some());
}

#[tokio::test]
async fn an_access_token_is_a_password_with_limits() {
    let fixture = fixture();
    let robot = UserChange { robot: Some(true), ..UserChange::default() };
    fixture.access.put_user(&name("ci"), Mode::Create, &robot).await.unwrap();
    fixture.add_user("alice").await;
    fixture.permit("t", &["ANY"], (&["**"], &[]), &[("ci", "rwd")], &[]).await;
    let scope = |repository: &str, images: &str, rights: &str| TokenScope {
        repository: repository.into(),
        images: images.into(),
        rights: rights.into(),
    };
    let wish = TokenWish { scope: Some(vec![scope("local", "team/**", "rw")]), ..TokenWish::default() };
    let token = fixture.access.create_token(&name("ci"), &wish).await.unwrap();
    let caller = fixture.access.log_in("ci", &token.text, None).await.unwrap().unwrap();
    assert_eq!(fixture.rights(&caller, "local", "team/app").await, "rw");
    assert_eq!(fixture.rights(&caller, "local", "app").await, "");
    assert_eq!(fixture.rights(&caller, "other", "team/app").await, "");
    // What is issued through it has its limits too, and ends with it.
    let signed = fixture.signed(&caller, &grants("app", "rw")).await;
    assert_eq!(fixture.rights(&fixture.by_signed(&signed).await.unwrap(), "local", "app").await, "");
    // It is nobody else's, and not known by its id alone; nothing of it is stored.
    for (user, secret) in [
        ("alice", token.text.clone()),
        ("ci", format!("{TOKEN_PREFIX}{}-", token.id)),
        ("ci", token.text[..token.text.len() - 1].to_owned()),
    ] {
        assert!(fixture.access.log_in(user, &secret, None).await.unwrap().is_none());
    }
    assert!(fixture.access.log_in_with_token(&token.text).await.unwrap().is_some());
    let stored = fixture.access.store.get(&keys::access_token(&token.id)).await.unwrap().unwrap();
    let secret = token.text.rsplit('-').next().unwrap();
    assert!(!String::from_utf8_lossy(&stored).contains(secret));

    fixture.access.revoke_token(&name("ci"), &token.id).await.unwrap();
    assert!(fixture.access.log_in("ci", &token.text, None).await.unwrap().is_none());
    assert!(fixture.by_signed(&signed).await.is_none());
    assert!(matches!(fixture.access.revoke_token(&name("ci"), &token.id).await, Err(Error::TokenUnknown)));
    for bad in [scope("a/b", "**", "r"), scope("local", "[", "r"), scope("local", "**", "x")] {
        let wish = TokenWish { scope: Some(vec![bad]), ..TokenWish::default() };
        assert!(matches!(fixture.access.create_token(&name("ci"), &wish).await, Err(Error::Invalid(_))));
    }
}

#[tokio::test]
async fn an_admin_with_a_limited_token_is_no_admin() {
    let fixture = fixture();
    fixture.access.create_first_admin(&name("admin"), PASSWORD).await.unwrap();
    let scope = TokenScope { repository: "local".into(), images: "**".into(), rights: "r".into() };
    let wish = TokenWish { scope: Some(vec![scope]), ..TokenWish::default() };
    let token = fixture.access.create_token(&name("admin"), &wish).await.unwrap();
    let caller = fixture.access.log_in("admin", &token.text, None).await.unwrap().unwrap();
    assert!(!caller.is_admin());
    assert_eq!(fixture.rights(&caller, "local", "app").await, "r");
    assert!(fixture.caller("admin").await.is_admin());
}

#[tokio::test]
async fn somebody_can_always_administrate() {
    let fixture = fixture();
    fixture.access.create_first_admin(&name("admin"), PASSWORD).await.unwrap();
    let admin = name("admin");
    let demoted = UserChange { admin: Some(false), ..UserChange::default() };
    let disabled = UserChange { enabled: Some(false), ..UserChange::default() };
    for change in [&demoted, &disabled] {
        assert!(matches!(fixture.access.put_user(&admin, Mode::Update, change).await, Err(Error::LastAdmin)));
    }
    // Replaced without being said to be an admin, it would be none either.
    assert!(matches!(fixture.access.put_user(&admin, Mode::Replace, &UserChange::default()).await, Err(Error::LastAdmin)));
    assert!(matches!(fixture.access.delete_user(&admin).await, Err(Error::LastAdmin)));
    fixture.add_user("second").await;
    let promoted = UserChange { admin: Some(true), ..UserChange::default() };
    fixture.access.put_user(&name("second"), Mode::Update, &promoted).await.unwrap();
    fixture.access.delete_user(&admin).await.unwrap();
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let fixture = fixture();
    fixture.add_user("alice").await;
    let access = &fixture.access;
    let with = |change: UserChange| async move { access.put_user(&name("alice"), Mode::Update, &change).await };
    assert!(matches!(with(UserChange { password: Some("short".into()), ..Default::default() }).await, Err(Error::WeakPassword(_))));
    assert!(matches!(
        with(UserChange { groups: Some(BTreeSet::from([name("nobody")])), ..Default::default() }).await,
        Err(Error::Unknown(Kind::Group, _))
    ));
    assert!(matches!(
        with(UserChange { robot: Some(true), password: Some(PASSWORD.into()), ..Default::default() }).await,
        Err(Error::Invalid(_))
    ));
    let put = async |who: &str, mode| access.put_user(&name(who), mode, &UserChange::default()).await;
    assert!(matches!(put("alice", Mode::Create).await, Err(Error::Exists(Kind::User, _))));
    assert!(matches!(put("bob", Mode::Update).await, Err(Error::Unknown(Kind::User, _))));
    assert!(matches!(put("anonymous", Mode::Create).await, Err(Error::Invalid(_))));
    let one = |repository: &str, pattern: &str, user: &str, rights: &str| Permission {
        repositories: [repository.to_owned()].into(),
        includes: vec![pattern.to_owned()],
        users: [(name(user), rights.to_owned())].into(),
        ..Permission::default()
    };
    for (permission, is_unknown) in [
        (one("a b", "**", "alice", "r"), false),
        (one("local", "a**", "alice", "r"), false),
        (one("local", "**", "alice", "rx"), false),
        (one("local", "**", "bob", "r"), true),
        (Permission::default(), false),
    ] {
        let refused = access.put_permission(&name("t"), Mode::Create, &permission).await.unwrap_err();
        assert_eq!(matches!(refused, Error::Unknown(..)), is_unknown, "{refused}");
    }
    assert!(access.permissions().await.unwrap().is_empty());
    assert!(fixture.access.log_in("alice", PASSWORD, None).await.unwrap().is_some());
}

#[tokio::test]
async fn whoever_joins_later_belongs_to_the_groups_that_everybody_joins() {
    let fixture = fixture();
    let group = |auto_join| Group { description: String::new(), auto_join };
    fixture.access.put_group(&name("readers"), Mode::Create, &group(true), None).await.unwrap();
    fixture.access.put_group(&name("writers"), Mode::Create, &group(false), None).await.unwrap();
    fixture.add_user("alice").await;
    assert_eq!(fixture.access.members(&name("readers")).await.unwrap(), [name("alice")]);
    assert!(fixture.access.members(&name("writers")).await.unwrap().is_empty());
    // Changing something else does not touch the groups, and replacing by none leaves none.
    let mail = UserChange { email: Some("a@example.com".into()), ..UserChange::default() };
    fixture.access.put_user(&name("alice"), Mode::Update, &mail).await.unwrap();
    assert_eq!(fixture.access.user(&name("alice")).await.unwrap().groups.len(), 1);
    let none = UserChange { groups: Some(BTreeSet::new()), ..UserChange::default() };
    fixture.access.put_user(&name("alice"), Mode::Update, &none).await.unwrap();
    assert!(fixture.access.members(&name("readers")).await.unwrap().is_empty());
}

#[tokio::test]
async fn guessing_is_slowed_down_and_the_owner_is_not_locked_out_elsewhere() {
    let fixture = fixture();
    fixture.add_user("alice").await;
    let (here, there) = (Some("192.0.2.1".parse().unwrap()), Some("192.0.2.2".parse().unwrap()));
    let mut blocked = false;
    for i in 0..10 {
        blocked |= matches!(fixture.access.log_in("alice", &format!("guess-{i}"), here).await, Err(crate::Error::LoginsBlocked { .. }));
    }
    assert!(blocked);
    assert!(matches!(fixture.access.log_in("alice", PASSWORD, here).await, Err(crate::Error::LoginsBlocked { .. })));
    assert!(fixture.access.log_in("alice", PASSWORD, there).await.unwrap().is_some());
    // Having been here before, the owner does not even notice.
    assert!(fixture.access.log_in("alice", PASSWORD, here).await.unwrap().is_some());
    pass_s(600);
    assert!(fixture.access.log_in("alice", "guess-9", here).await.unwrap().is_none());
}

#[tokio::test]
async fn of_guesses_made_at_once_no_more_are_checked_than_are_free() {
    let fixture = fixture();
    fixture.add_user("alice").await;
    let here = Some("192.0.2.1".parse().unwrap());
    let guesses: Vec<String> = (0..80).map(|i| format!("guess-{i}")).collect();
    let answers = futures::future::join_all(guesses.iter().map(|guess| fixture.access.log_in("alice", guess, here))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 5);
    assert!(answers.iter().all(|answer| !matches!(answer, Ok(Some(_)))));
}

#[tokio::test]
async fn right_passwords_at_once_from_one_address_are_all_let_in() {
    let fixture = fixture();
    let here = Some("192.0.2.1".parse().unwrap());
    let users: Vec<String> = (0..50).map(|i| format!("user{i}")).collect();
    for user in &users {
        fixture.add_user(user).await;
    }
    // Each of them asks several times at once, as docker does.
    let asked = users.iter().flat_map(|user| [user; 4]).map(|user| fixture.access.log_in(user, PASSWORD, here));
    for answer in futures::future::join_all(asked).await {
        assert!(answer.unwrap().is_some());
    }
}

#[tokio::test]
async fn guesses_that_nobody_waits_for_count_all_the_same() {
    let fixture = fixture();
    fixture.add_user("alice").await;
    let here = Some("192.0.2.1".parse().unwrap());
    for i in 0..10 {
        // Given up at once, long before the hash is done.
        let guess = format!("guess-{i}");
        let _ = tokio::time::timeout(std::time::Duration::from_millis(2), fixture.access.log_in("alice", &guess, here)).await;
    }
    let next = fixture.access.log_in("alice", PASSWORD, here).await;
    assert!(matches!(next, Err(crate::Error::LoginsBlocked { .. })), "{next:?}");
}

#[tokio::test]
async fn a_clock_that_is_set_back_locks_nobody_out() {
    thread_local! {
        static STEADY_MS: Cell<u64> = const { Cell::new(0) };
    }
    let directory = tempfile::tempdir().unwrap();
    let stores = rocksdb::open(directory.path()).unwrap();
    let clock = Clock::from_fn(|| NOW_MS.get()).with_steady(|| STEADY_MS.get());
    let access = Access::new(Arc::clone(&stores.metadata), clock, PasswordPolicy::default()).unwrap();
    let change = UserChange { password: Some(PASSWORD.into()), ..UserChange::default() };
    access.put_user(&name("alice"), Mode::Create, &change).await.unwrap();
    let here = Some("192.0.2.1".parse().unwrap());
    for i in 0..5 {
        assert!(access.log_in("alice", &format!("guess-{i}"), here).await.unwrap().is_none());
    }
    NOW_MS.set(NOW_MS.get() - 24 * 60 * 60 * 1000);
    let waits_s = |blocked| match blocked {
        Err(crate::Error::LoginsBlocked { wait }) => wait.as_secs(),
        other => panic!("{other:?}"),
    };
    assert_eq!(waits_s(access.log_in("alice", PASSWORD, here).await), 1);
    STEADY_MS.set(1000);
    assert!(access.log_in("alice", PASSWORD, here).await.unwrap().is_some());
    // Nor is what was found out about a password remembered for a day longer, or forgotten.
    assert!(!access.must_check("alice", PASSWORD));
    STEADY_MS.set(1000 + 5 * 60 * 1000);
    assert!(access.must_check("alice", PASSWORD));
}

#[tokio::test]
async fn password_73rd_byte_matters() {
    let fixture = fixture();
    let long = "x1y2z3".repeat(20);
    let change = UserChange { password: Some(long.clone()), ..UserChange::default() };
    fixture.access.put_user(&name("alice"), Mode::Create, &change).await.unwrap();
    assert!(fixture.access.log_in("alice", &long, None).await.unwrap().is_some());
    assert!(fixture.access.log_in("alice", &format!("{}!{}", &long[..72], &long[73..]), None).await.unwrap().is_none());
}
