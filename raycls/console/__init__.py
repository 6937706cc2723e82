"""The web page of a server: try a picture, teach, change what is served, watch.

Everything that it shows or does is a call of the HTTP API, with the token of whoever is signed in.
"""
