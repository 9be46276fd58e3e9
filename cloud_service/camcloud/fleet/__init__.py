"""The fleet: certificate authority, credentials, enrolment, devices and their desired state."""
