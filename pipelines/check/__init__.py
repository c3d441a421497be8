"""check: can a recording's or a store's pixel-point pairs be trusted?"""
