//! What callers ask for: rates over three horizons, and how far a sudden rise may be believed.
//!
//! Each sum is an exponentially weighted rate: an event adds `x / tau`, and everything decays by
//! `exp(-dt / tau)`, so that an error once made fades instead of staying. A rise within a second is the
//! earliest sign of a burst and the noisiest. How much of it is real is learnt for each bucket
//! (empirical Bayes): where the one-second rate strays from the sixteen-second one by no more than
//! independent calls would make it stray, it says nothing; where it strays much further, bursts are how
//! this traffic comes.

/// Time constants of the rates, in seconds.
pub(super) const TAUS: [f64; 3] = [1.0, 16.0, 32.0];
/// Variance of the difference of the two fast rates, for independent calls, as a multiple of the rate of
/// squares: 1/2 of each time constant's inverse, less twice their overlap.
const NOISE: f64 = 0.5 + 0.5 / 16.0 - 2.0 / 17.0;
/// Seconds over which it is learnt how bursty a bucket's traffic is.
const MEMORY: f64 = 600.0;

/// Rates of one thing that calls take: their sum and the sum of squares, each per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    /// Of the amounts, by time constant.
    pub(super) sum: [f64; 3],
    /// Of their squares.
    pub(super) squares: [f64; 3],
}

impl Rates {
    /// These amounts asked for by each of `calls`, for what is only known as a mean.
    pub(super) fn of_mean(calls: &Self, mean: f64, square: f64) -> Self {
        Self { sum: calls.sum.map(|n| n * mean), squares: calls.sum.map(|n| n * square) }
    }

    /// Both together, of the same calls; `mean` is the other's.
    pub(super) fn with(&self, other: &Self, mean: f64) -> Self {
        let mut both = *self;
        for at in 0..TAUS.len() {
            both.sum[at] += other.sum[at];
            // (a + b)^2 with b independent of a.
            both.squares[at] += other.squares[at] + 2.0 * self.sum[at] * mean;
        }
        both
    }

    pub(super) fn add(&mut self, amount: f64) {
        for (at, tau) in TAUS.iter().enumerate() {
            self.sum[at] += amount / tau;
            self.squares[at] += amount * amount / tau;
        }
    }

    /// The rates as headers bear them out, and what others take beside them. Where headers fall by less
    /// than calls are booked with (a cache pays for part of them, say), each call takes that much less.
    pub(super) fn shared_with(&self, others: f64) -> (Self, f64) {
        if others >= 0.0 || self.sum[1] <= 0.0 {
            return (*self, others.max(0.0));
        }
        let borne_out = (1.0 + others / self.sum[1]).clamp(0.0, 1.0);
        let scaled = Self {
            sum: self.sum.map(|sum| sum * borne_out),
            squares: self.squares.map(|square| square * borne_out * borne_out),
        };
        (scaled, 0.0)
    }

    /// What was added for a call that took nothing.
    pub(super) fn take_back(&mut self, amount: f64) {
        for (at, tau) in TAUS.iter().enumerate() {
            self.sum[at] = (self.sum[at] - amount / tau).max(0.0);
            self.squares[at] = (self.squares[at] - amount * amount / tau).max(0.0);
        }
    }

    pub(super) fn decay(&mut self, by: &[f64; 3]) {
        for (at, factor) in by.iter().enumerate() {
            self.sum[at] *= factor;
            self.squares[at] *= factor;
        }
    }
}

/// Probability that a normal variable lies above 0, which is `sigmas` below its mean. The logistic curve is
/// within a hundredth of it, and knows no table.
pub(in crate::engine) fn probability(sigmas: f64) -> f64 {
    1.0 / (1.0 + (-1.702 * sigmas).exp())
}

/// What `dt` seconds leave of each rate.
pub(super) fn decay(dt: f64) -> [f64; 3] {
    TAUS.map(|tau| (-dt / tau).exp())
}

/// How far the traffic on one bucket strays within a second, against what independent calls would.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Burstiness {
    /// Mean square of what the fast rate was off the slow one.
    strayed: f64,
    /// Mean rate of squares.
    squares: f64,
    /// Seconds that were averaged.
    age: f64,
}

impl Burstiness {
    /// The last `dt` seconds passed at these rates.
    pub(super) fn learn(&mut self, rates: &Rates, dt: f64) {
        self.age = (self.age + dt).min(MEMORY);
        let weight = (dt / self.age.max(dt)).min(1.0);
        let off = rates.sum[0] - rates.sum[1];
        self.strayed += weight * (off * off - self.strayed);
        self.squares += weight * (rates.squares[1] - self.squares);
    }

    /// The share of a sudden rise that is believed: 0 where the traffic is steady, towards 1 where it
    /// comes in bursts.
    pub(super) fn believed(&self) -> f64 {
        let noise = self.squares * NOISE;
        let real = (self.strayed - noise).max(0.0);
        if real > 0.0 { real / (real + noise) } else { 0.0 }
    }
}

/// The rate that is expected from here on, less `doubts` of its own deviations: the believed part of
/// what the last second shows, and the steady rest.
pub(super) fn expected(rates: &Rates, believed: f64, doubts: f64) -> f64 {
    let [fast, steady, _] = rates.sum;
    let mixed = rates.squares[1] + believed * (rates.squares[0] - rates.squares[1]);
    let variance = believed * mixed / 2.0 + (1.0 - believed) * rates.squares[1] / 32.0;
    steady + believed * (fast - steady) - doubts * variance.max(0.0).sqrt()
}

/// The rate that a steady rise will have reached in so many seconds, less `doubts` of its deviations. Both
/// slow rates lag behind by their time constants, so their difference is the slope.
pub(super) fn rising(rates: &Rates, doubts: f64, ahead: f64) -> f64 {
    let [_, near, far] = rates.sum;
    let slope = (near - far) / (TAUS[2] - TAUS[1]);
    let lag = (TAUS[1] + ahead) / (TAUS[2] - TAUS[1]);
    let square = rates.squares[1];
    let variance = square * ((1.0 + lag).powi(2) / 32.0 + lag * lag / 64.0 - 2.0 * (1.0 + lag) * lag / 48.0);
    if slope > 0.0 { near + slope * (TAUS[1] + ahead) - doubts * variance.max(0.0).sqrt() } else { 0.0 }
}

/// The rate of the last half minute, less half of its deviation: slow, and hardly ever wrong.
pub(super) fn steady(rates: &Rates) -> f64 {
    rates.sum[2] - 0.5 * (rates.squares[2] / 64.0).sqrt()
}
