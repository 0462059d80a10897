"""Authors' layers as references: from a pinned checkout in a process of their own, or as a recorded trace. None of their code is here."""
