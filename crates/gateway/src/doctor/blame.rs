//! Which hop is to blame: the last one of those that show a fault, seen from outside.
//!
//! A hop answers with what it does itself and what all behind it do. So a fault that shows at one address and not at the
//! next one inside is made by what listens at the first.

use serde::Serialize;

use super::front::{self, Product};
use super::judge::{Fault, Level, Verdict};
use super::observe::Observations;

/// A hop that was examined.
pub(super) struct Examined {
    /// Its address as it was given.
    pub(super) url: String,
    pub(super) seen: Observations,
    pub(super) verdicts: Vec<Verdict>,
}

/// A fault that clients meet.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    #[serde(flatten)]
    pub(super) verdict: Verdict,
    /// What stands there, as far as it told.
    pub(super) product: Product,
    /// Where the fault is, in a sentence.
    pub(super) place: String,
}

/// The faults at the outermost hop, each with the hop that makes it.
pub(super) fn findings(hops: &[Examined]) -> Vec<Finding> {
    let Some(outermost) = hops.first() else { return Vec::new() };
    let faulty = outermost.verdicts.iter().filter_map(|verdict| Some((verdict, verdict.fault?)));
    faulty.map(|(verdict, fault)| finding(hops, verdict, fault)).collect()
}

fn finding(hops: &[Examined], verdict: &Verdict, fault: Fault) -> Finding {
    let is_gateways =
        matches!(fault, Fault::NotTrusted | Fault::PublicAddress | Fault::UnknownHost | Fault::NoRepository | Fault::Denied | Fault::Api);
    // A hop that cannot be reached from here says nothing.
    let reachable: Vec<&Examined> =
        hops.iter().enumerate().filter(|(at, hop)| *at == 0 || !hop.has(Fault::Unreachable)).map(|(_, hop)| hop).collect();
    let guilty = reachable.iter().position(|hop| !hop.has(fault)).map_or(reachable.len(), |at| at).saturating_sub(1);
    let (hop, next) = (reachable[guilty], reachable.get(guilty + 1));
    let product = if is_gateways { Product::Gateway } else { hop.front() };
    let place = match next {
        _ if is_gateways => "at the gateway itself, in its configuration".to_owned(),
        Some(next) => format!(
            "between {} and {}: the fault is made by what listens at {} ({product}), and gone behind it",
            hop.url, next.url, hop.url
        ),
        None if hop.is_direct() => format!("at the gateway itself: nothing is between it and {}", hop.url),
        None if hops.len() > 1 => format!("at {} ({product}) or behind it: it is there at every address that was given", hop.url),
        None => match product {
            Product::Unknown => {
                "somewhere before the gateway; name the addresses in between with --via, from outside to inside, to learn where".to_owned()
            }
            product => format!("at {product}, or somewhere between it and the gateway; --via tells which"),
        },
    };
    Finding { verdict: verdict.clone(), product, place }
}

impl Examined {
    fn has(&self, fault: Fault) -> bool {
        self.verdicts.iter().any(|verdict| verdict.fault == Some(fault) && verdict.level != Level::Fine)
    }

    /// Nothing is in between: the gateway sees us at our own address and port.
    fn is_direct(&self) -> bool {
        let report = self.seen.base.answer.as_ref().ok().and_then(|answer| answer.report.as_ref());
        report.is_some_and(|report| Some(report.peer) == self.seen.base.local)
    }

    /// What answers there, by whatever answer tells.
    pub(super) fn front(&self) -> Product {
        let mut answers = vec![&self.seen.base];
        if let Some(details) = &self.seen.details {
            answers.extend(details.methods.iter().map(|(_, exchange)| exchange));
            answers.extend([&details.upload, &details.chunked]);
        }
        answers.extend([&self.seen.v2, &self.seen.ping]);
        let mut products = answers.into_iter().filter_map(|exchange| exchange.answer.as_ref().ok()).map(front::product);
        let known = products.find(|product| !matches!(product, Product::Unknown | Product::Gateway));
        known.unwrap_or(if self.is_direct() { Product::Gateway } else { Product::Unknown })
    }
}
