//! What every fleet does, whatever it is made of. A backend is tested by a [`Backend`] of its own and a line at the end of each topic.

mod contract {
    pub(crate) mod life;
    pub(crate) mod make;
}
