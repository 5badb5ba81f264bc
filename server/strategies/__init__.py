"""How a round's updates become the next model: one module for each part, composed by `server.aggregation`."""
