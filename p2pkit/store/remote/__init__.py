"""Stores in object stores and on web servers: requests, the local cache, copies."""
