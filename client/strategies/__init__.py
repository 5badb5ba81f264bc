"""What sites do differently where hospitals differ: one module for each part, composed by `client.strategies.local`."""
