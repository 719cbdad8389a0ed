"""Image bytes in, arrays out: decoding, grey levels, geometry, de-identification. No Ray and no torch here.

- `mskray.imaging.decode`      bytes of a PNG, JPEG, TIFF or DICOM file → `DecodedImage`, or `DecodeError` with a reason
- `mskray.imaging.intensity`   grey-level maps: windows, look-up tables, percentile stretch, 8 bits
- `mskray.imaging.regions`     a picture on a square canvas, and boxes to and from it
- `mskray.imaging.deidentify`  keyed hashes in place of patient and study identifiers

The command that runs most of it is `mskray ingest`.
"""
