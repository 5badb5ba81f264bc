"""How a model's changes are made small for the wire: quantised or thinned out, then coded without loss.

Both ends know the model's layout, so that no name and no shape travels: a payload is a short header, and a Zstandard
frame of exactly the bytes that the layout asks for. `settings` names the choices, `coding` turns weights into bytes and
back, `container` reads bytes that nobody vouches for, `parcel` is what lies in a message, and `at_site` is what a site
remembers from round to round.
"""
