//! What differs between two configurations.

use super::Config;
use super::sources::Sources;

impl Config {
    /// The settings in which another configuration differs, by their names in the file. Secrets are compared by their
    /// hashes; what certificates hold is not.
    pub fn changes(&self, other: &Self) -> Vec<&'static str> {
        // Taken apart whole, so that a new setting is not forgotten here.
        let Self {
            state_dir,
            external_url,
            listeners,
            owners,
            credentials,
            fingerprint_key,
            model_groups,
            thresholds,
            alerts,
            evidence,
            metrics,
            admin,
            admin_closed,
            otlp,
            book,
            max_totals,
            memory_limit,
            sources: Sources { places, envoy_als, otlp: received, tails, state_dir: kept },
            pollers,
            quotas,
            counting,
            unread: _,
            text: _,
        } = self;
        let all = [
            ("state_dir", *state_dir == other.state_dir),
            ("external_url", *external_url == other.external_url),
            ("listeners", *listeners == other.listeners),
            ("owners", *owners == other.owners),
            ("credentials", *credentials == other.credentials),
            ("fingerprint_key", *fingerprint_key == other.fingerprint_key),
            ("model_groups", *model_groups == other.model_groups),
            ("alerts", *thresholds == other.thresholds && *alerts == other.alerts),
            ("evidence", *evidence == other.evidence),
            ("metrics", *metrics == other.metrics),
            ("admin", *admin == other.admin && *admin_closed == other.admin_closed),
            ("otlp", *otlp == other.otlp),
            ("limits.buckets", *book == other.book),
            ("limits.totals", *max_totals == other.max_totals),
            ("memory_limit", *memory_limit == other.memory_limit),
            ("sources.routes", *places == other.sources.places),
            ("sources.envoy_als", *envoy_als == other.sources.envoy_als),
            ("sources.otlp", *received == other.sources.otlp),
            ("sources.tails", *tails == other.sources.tails),
            ("sources.state_dir", *kept == other.sources.state_dir),
            ("pollers", *pollers == other.pollers),
            ("quotas", *quotas == other.quotas),
            ("counting", *counting == other.counting),
        ];
        all.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
    }
}
