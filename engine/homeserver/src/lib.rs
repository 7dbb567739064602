//! A Matrix homeserver on Ravel's engine: rooms, users, delivery and federation.
