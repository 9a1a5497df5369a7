//! The class's vector, which joins the time embedding (Dhariwal & Nichol 2021, section 4.1).
//!
//! The layer is a table of one row for each class; y is the row of the sample's class, so that dY is added to
//! the gradient in this row.

use crate::real::Real;

/// Sets y to the row of `class`.
pub fn class_embedding<T: Real>(table: &[T], class: usize, y: &mut [T]) {
    y.copy_from_slice(&table[class * y.len()..][..y.len()]);
}

/// Adds d_y to the gradient in the row of `class`.
pub fn class_embedding_backward<T: Real>(d_y: &[T], class: usize, d_table: &mut [T]) {
    let row = &mut d_table[class * d_y.len()..][..d_y.len()];
    row.iter_mut().zip(d_y).for_each(|(d, d_y)| *d += *d_y);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::gradient_check::{check_gradient, dot, normal};

    #[test]
    fn the_gradient_is_a_central_difference_and_adds_up() {
        let (table, d_y): (Vec<f64>, Vec<f64>) = (normal(12, 1), normal(3, 2));
        let mut d = vec![0.0; 12];
        for class in [2, 0, 2] {
            class_embedding_backward(&d_y, class, &mut d);
        }
        check_gradient("d_table", &table, &d, |table| {
            let mut y = [f64::NAN; 3];
            let mut of = |class: usize| {
                class_embedding(table, class, &mut y);
                dot(&y, &d_y)
            };
            of(2) + of(0) + of(2)
        });
    }
}
