"""What runs at a hospital: the Flower ClientApp, the site's settings, and the contract of the messages."""

from client.offline import switch_off_network

switch_off_network()
