-- PostgreSQL's image runs this once, when its volume is empty.
CREATE DATABASE mlflow;
CREATE DATABASE studies;
