"""What runs at the coordinator: the Flower ServerApp, the rounds, aggregation, the server's state and its records."""

from client.offline import switch_off_network

switch_off_network()
